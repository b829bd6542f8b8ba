"""Continuous BERT's loss: each masked frame picks its own input among those of other masked frames, by softly clamped inner products."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossl.losses._precision import full_precision
from audiossl.losses._sampled import ContrastiveLoss, at_negatives, inner_products


@full_precision
def clamped_contrastive(
    context: Tensor, targets: Tensor, negatives: Tensor, slots: Tensor, *, clamp: float = 20.0
) -> ContrastiveLoss:
    """-log softmax at the own target of s = clamp tanh(c.y / (sqrt(dim) clamp)) (Baevski et al., 2019, continuous BERT), per frame.

    Arguments as in `_sampled.inner_products`: context c and targets y, (frame, dim); negatives, (utterance, slot, negative), of which -1 is none; slots,
    (frame,). The clamp is known from secondary sources, its value and the division by sqrt(dim) are our variant. A frame without negatives has loss 0. Negatives equal to the target keep
    their share, but are not live: where all targets have become one, the loss is log(1 + negatives) whatever is learnt.
    """
    if clamp <= 0:
        raise ValueError(f"clamp: {clamp} is not positive")
    filled, none = negatives.clamp(min=0), (negatives < 0).flatten(0, 1).index_select(0, slots)
    scale = 1 / (clamp * math.sqrt(targets.shape[1]))
    positive, negative = (
        clamp * torch.tanh(scale * products) for products in inner_products(context, targets, filled, slots)
    )
    negative = negative.masked_fill(none, -torch.inf)
    logits = torch.cat([positive.unsqueeze(1), negative], dim=1)
    loss = F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64), reduction="none")
    _, identity = torch.unique(targets.detach(), dim=0, return_inverse=True)
    live = (~none & (at_negatives(identity, filled, slots) != identity.unsqueeze(1))).sum(dim=1)
    best = negative.amax(dim=1) if negative.shape[1] else torch.full_like(positive, -torch.inf)
    return ContrastiveLoss(loss, (positive > best) & (live > 0), live)
