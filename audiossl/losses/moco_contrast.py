"""MoCo's loss: each query picks its key among a queue of the keys of earlier batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._checks import need_same_shape
from audiossl.losses._contrast import cosine_contrast
from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin


@full_precision
def moco_contrast(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float = 0.03,
    margin: Margin | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """Mean over queries of -log softmax over the own key and the queue, cosine / temperature (He et al., 2020, eq. 1).

    query: (batch, dim), with a gradient. key: (batch, dim) of the momentum encoder and queue: (entry, dim), both detached here. None need be
    normalised. excluded: (batch, entry) bool, entries that are no negatives of this query, such as those of its pseudo-label; they leave
    the denominator. The symmetric form is the mean of two calls, with a queue each. Put keys into the queue after the loss: a key
    that is there already would be its own negative.
    """
    need_same_shape("batch, dim", query=query, key=key)
    query_unit, key_unit = unit(query), unit(key.detach())
    own = (query_unit * key_unit).sum(dim=1, keepdim=True)
    cosines = torch.cat([own, query_unit @ unit(queue.detach()).T], dim=1)  # (batch, 1 + entry)
    positive = torch.zeros_like(cosines, dtype=torch.bool)
    positive[:, 0] = True
    if excluded is not None:
        excluded = torch.cat([torch.zeros_like(positive[:, :1]), excluded], dim=1)
    return cosine_contrast(cosines, positive, query, temperature=temperature, excluded=excluded, margin=margin).mean()
