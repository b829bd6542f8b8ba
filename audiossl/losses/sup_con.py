"""Supervised contrastive loss: each embedding picks all others with its label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from audiossl.losses._checks import need_one_label_each, need_same_shape
from audiossl.losses._contrast import contrast
from audiossl.losses._precision import full_precision
from audiossl.nn.gather import gather_with_gradient, layout_of, sum_over_processes

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin


@full_precision
def sup_con(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    form: Literal["out", "in"] = "out",
    margin: Margin | None = None,
    across_processes: bool = True,
) -> Tensor:
    """SupCon over all embeddings of all processes, each an anchor against all others (Khosla et al., 2020, eq. 2 and 3).

    embeddings: (row, dim), not normalised; the views of an utterance are rows of their own. labels: (row,) int. form: `out` is the mean
    over positives of their negative log-probabilities, `in` the negative logarithm of their mean probability, never more. The mean over
    the anchors that have a positive (0 without any), such that its mean over processes, weighted by their rows, is that of the global batch.
    """
    need_one_label_each(embeddings, labels=labels)
    need_same_shape("row, dim", embeddings=embeddings)
    layout = layout_of(embeddings, across_processes=across_processes)
    candidates = gather_with_gradient(embeddings, layout)
    everybody = gather_with_gradient(labels, layout)
    own = torch.arange(layout.start, layout.start + len(labels), device=labels.device)
    itself = own.unsqueeze(1) == torch.arange(layout.total, device=labels.device)  # (anchor, candidate)
    positive = (labels.unsqueeze(1) == everybody) & ~itself
    loss = contrast(
        embeddings,
        candidates,
        positive,
        temperature=temperature,
        excluded=itself,
        margin=margin,
        form="mean" if form == "out" else "inside",
    )
    has_positive = positive.any(dim=1)
    share = sum_over_processes(has_positive.sum().to(loss), layout) / layout.total
    return (loss * has_positive).mean() / share.clamp_min(1 / layout.total)
