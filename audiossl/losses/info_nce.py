"""InfoNCE: each query picks its key among the keys of all utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from audiossl.losses._checks import need_positive, need_same_shape
from audiossl.losses._contrast import contrast, softmax_contrast
from audiossl.losses._precision import full_precision
from audiossl.nn.gather import gather_with_gradient, layout_of

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin


@full_precision
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float = 0.2,
    similarity: Literal["cosine", "dot"] = "cosine",
    margin: Margin | None = None,
    across_processes: bool = True,
) -> Tensor:
    """Mean over queries of -log softmax of similarity / temperature at the own key (van den Oord et al., 2018, eq. 4).

    query, key: (batch, dim), row i of both from utterance i. The keys of all processes are candidates; only queries are anchors. Nats, a
    mean over the own queries. temperature: 0.2 for speakers (Lepage and Dehak, 2022, used 0.07 as well). similarity: `dot` is the
    inner product as it is, which no margin fits.
    """
    need_same_shape("batch, dim", query=query, key=key)
    layout = layout_of(key, across_processes=across_processes)
    keys = gather_with_gradient(key, layout)
    own = torch.arange(layout.start, layout.start + len(query), device=query.device)
    positive = own.unsqueeze(1) == torch.arange(layout.total, device=query.device)  # (query, key)
    if similarity not in {"cosine", "dot"}:
        raise ValueError(f"info_nce: similarity {similarity!r} is neither 'cosine' nor 'dot'")
    if similarity == "cosine":
        return contrast(query, keys, positive, temperature=temperature, margin=margin).mean()
    if margin is not None:
        raise ValueError("info_nce: a margin is an angle and needs similarity='cosine', not 'dot'")
    need_positive(temperature=temperature)
    return softmax_contrast(query @ keys.T / temperature, positive).mean()
