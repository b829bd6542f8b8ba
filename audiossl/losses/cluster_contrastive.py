"""ccc-wav2vec 2.0's loss: that of wav2vec 2.0 with less weight on negatives that resemble the target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from audiossl.losses._precision import full_precision
from audiossl.losses._sampled import ContrastiveLoss, at_negatives, sampled_logits

if TYPE_CHECKING:
    from torch import Tensor

ScaleMode = Literal["paper", "positive_only", "additive"]


@full_precision
def cluster_contrastive(
    context: Tensor,
    targets: Tensor,
    negatives: Tensor,
    slots: Tensor,
    *,
    clusters: Tensor,
    scale: float = 0.3,
    mode: ScaleMode = "paper",
    identity: Tensor | None = None,
    temperature: float = 0.1,
) -> ContrastiveLoss:
    """`wav2vec2_contrastive` whose negatives in the target's own cluster count less (Lodagala et al., 2022, section 3.2).

    clusters: (frame,) int64, of the targets; the other arguments as there. mode `paper` multiplies the logits of those negatives by `scale`,
    which raises the negative ones; `positive_only` leaves these alone; `additive` adds log(scale), so that each counts as `scale` of a
    negative whatever its sign. The published code does so only in batches where some negative is identical to its target: here it is
    always done.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: {scale} is not above 0 and at most 1")
    logits = sampled_logits(context, targets, negatives, slots, identity=identity, temperature=temperature)
    akin = at_negatives(clusters, negatives, slots) == clusters.unsqueeze(1)
    return logits._replace(negative=torch.where(akin, _less(logits.negative, scale, mode), logits.negative)).loss()


def _less(logits: Tensor, scale: float, mode: ScaleMode) -> Tensor:
    if mode == "paper":
        return logits * scale
    if mode == "positive_only":
        return torch.where(logits > 0, logits * scale, logits)
    if mode == "additive":
        return logits + math.log(scale)
    raise ValueError(f"mode: {mode!r} is none of 'paper', 'positive_only' and 'additive'")
