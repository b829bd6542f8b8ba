"""Continuous BERT's loss: each masked frame picks its own input among those of other masked frames, by softly clamped inner products."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossl.losses._precision import full_precision
from audiossl.losses._sampled import ContrastiveLoss


@full_precision
def clamped_contrastive(context: Tensor, targets: Tensor, negatives: Tensor, *, clamp: float = 20.0) -> ContrastiveLoss:
    """-log softmax at the own target of s = clamp tanh(c.y / (sqrt(dim) clamp)) (Baevski et al., 2019, continuous BERT), per frame.

    context, targets: (frame, dim), c and y. negatives: (frame, negative) int64, rows of targets; -1 is none. The clamp is known from secondary
    sources, its value and the division by sqrt(dim) are our variant. A frame without negatives has loss 0. Negatives equal to the target keep
    their share, but are not live: where all targets have become one, the loss is log(1 + negatives) whatever is learnt.
    """
    if clamp <= 0:
        raise ValueError(f"clamp: {clamp} is not positive")
    scores = context @ targets.T / math.sqrt(targets.shape[1])  # (frame, frame): smaller than a copy of each negative
    scores = clamp * torch.tanh(scores / clamp)
    none, rows = negatives < 0, negatives.clamp(min=0)
    positive = scores.diagonal()
    negative = scores.gather(1, rows).masked_fill(none, -torch.inf)
    logits = torch.cat([positive.unsqueeze(1), negative], dim=1)
    loss = F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64), reduction="none")
    _, identity = torch.unique(targets.detach(), dim=0, return_inverse=True)
    live = (~none & (identity[rows] != identity.unsqueeze(1))).sum(dim=1)
    best = negative.amax(dim=1) if negative.shape[1] else torch.full_like(positive, -torch.inf)
    return ContrastiveLoss(loss, (positive > best) & (live > 0), live)
