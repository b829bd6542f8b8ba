"""SwAV: each crop predicts the balanced cluster assignment of the other, long crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._checks import need_positive, need_same_shape
from audiossl.losses._precision import full_precision
from audiossl.losses._sinkhorn import sinkhorn
from audiossl.nn.gather import layout_of

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def swav(
    scores: Tensor,
    queue_scores: Tensor | None = None,
    *,
    num_global: int = 2,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    across_processes: bool = True,
) -> Tensor:
    """Mean over the batch and over pairs of a global crop's code and another crop's prediction of the cross-entropy (Caron et al., 2020, eq. 1 and 2).

    scores: (crop, batch, prototype), inner products of unit rows with unit prototypes, global crops first. queue_scores: (num_global, entry,
    prototype), those of earlier embeddings of this process, which help to balance the codes and then leave. Codes come from Sinkhorn over
    the batches and queues of all processes and get no gradient. Nats.
    """
    need_same_shape("crop, batch, prototype", scores=scores)
    need_positive(temperature=temperature)
    crops, batch = scores.shape[:2]
    if not 1 <= num_global <= crops or crops < 2:
        raise ValueError(f"swav: num_global {num_global} does not fit {crops} crops; give two crops or more")
    rows = scores[:num_global].detach()
    if queue_scores is not None:
        rows = torch.cat([rows, queue_scores.detach()], dim=1)
    layout = layout_of(rows, dim=1, across_processes=across_processes)
    codes = [sinkhorn(crop, layout, epsilon=epsilon, iterations=iterations)[:batch] for crop in rows]
    log_probs = (scores / temperature).log_softmax(dim=2)
    nats = -torch.einsum("gnk,cnk->gcn", torch.stack(codes), log_probs)
    same = torch.eye(num_global, crops, dtype=torch.bool, device=nats.device)
    return nats[~same].sum() / (batch * (~same).sum())
