"""What losses of masked frames share: products of each frame with its own target and with sampled ones of the same utterance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from audiossl.losses._checks import need_positive
from audiossl.losses._precision import unit


class ContrastiveLoss(NamedTuple):
    """loss: (frame,) in nats, differentiable. right: (frame,) bool, nearer to its target than to each of its negatives, of which it has one at least.

    live: (frame,) int64, negatives that differ from the target.
    """

    loss: Tensor
    right: Tensor
    live: Tensor


class SampledLogits(NamedTuple):
    """positive: (frame,). negative: (frame, negative), among them the dead. dead: (frame, negative) bool, identical to the positive."""

    positive: Tensor
    negative: Tensor
    dead: Tensor

    def loss(self) -> ContrastiveLoss:
        """-log softmax of the positive among itself and the live negatives; 0 for a frame that has none."""
        negative = self.negative.masked_fill(self.dead, -torch.inf)
        loss = -torch.cat([self.positive.unsqueeze(1), negative], dim=1).log_softmax(dim=1)[:, 0]
        live = (~self.dead).sum(dim=1)
        right = (self.positive > negative.amax(dim=1)) & (live > 0)
        return ContrastiveLoss(loss, right, live)


def sampled_logits(
    context: Tensor,
    targets: Tensor,
    negatives: Tensor,
    slots: Tensor,
    *,
    identity: Tensor | None,
    temperature: float,
) -> SampledLogits:
    """Cosines / temperature; see `inner_products`.

    identity: (frame,) int64, equal where targets are; without it, a target equals itself alone.
    """
    need_positive(temperature=temperature)
    positive, negative = inner_products(unit(context), unit(targets), negatives, slots)
    same = slots if identity is None else identity
    dead = at_negatives(same, negatives, slots) == same.unsqueeze(1)
    return SampledLogits(positive / temperature, negative / temperature, dead)


def inner_products(context: Tensor, targets: Tensor, negatives: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Products of each frame with its own target, (frame,), and with its negatives, (frame, negative).

    context, targets: (frame, dim), the masked frames of all utterances one after another. slots: (frame,) int64, their places in the
    flattened (utterance, slot) of negatives: (utterance, slot, negative) int64, slots of the same utterance. They are gathered from one Gram
    matrix of masked x masked frames per utterance: where the published form copies every negative, frame x negative x dim, nothing here is
    larger than utterance x slot x slot.
    """
    grams = _spread(context, slots, negatives) @ _spread(targets, slots, negatives).transpose(1, 2)
    own = grams.diagonal(dim1=1, dim2=2).flatten().index_select(0, slots)
    return own, grams.gather(2, negatives).flatten(0, 1).index_select(0, slots)


def at_negatives(values: Tensor, negatives: Tensor, slots: Tensor) -> Tensor:
    """Values of each frame's negatives, (frame, negative). values: (frame,)."""
    grid = _spread(values.unsqueeze(1), slots, negatives).squeeze(2)  # (utterance, slot)
    return grid.gather(1, negatives.flatten(1)).view(-1, negatives.shape[2]).index_select(0, slots)


def _spread(rows: Tensor, slots: Tensor, negatives: Tensor) -> Tensor:
    """Rows at their places, 0 elsewhere: (utterance, slot, dim)."""
    utterances, width, _ = negatives.shape
    grid = rows.new_zeros(utterances * width, rows.shape[1])
    return grid.index_copy(0, slots, rows).view(utterances, width, rows.shape[1])
