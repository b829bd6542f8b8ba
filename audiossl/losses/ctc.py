"""Connectionist temporal classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class CTCLoss(NamedTuple):
    """loss: (batch,) in nats, 0 where no alignment exists. possible: (batch,) bool, whether one does."""

    loss: Tensor
    possible: Tensor


@full_precision
def ctc(logits: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor, *, blank: int = 0) -> CTCLoss:
    """Negative log-probability of each target sequence, summed over its alignments (Graves et al., 2006, eq. 3 and 8).

    logits: (batch, frame, token). lengths: (batch,) valid frames. target: (batch, label), without blanks; what lies past
    `target_lengths` is not read. Computed in float32 at least, also under autocast.

    A sequence needs a frame per label and one more, a blank, between equal neighbours. Where there are fewer frames, the
    probability is 0 and the loss infinite: such an utterance gives loss 0, no gradient, and `possible` False.
    """
    log_probs = logits.log_softmax(dim=2).transpose(0, 1)  # (frame, batch, token)
    target = target.clamp_min(0)
    loss = F.ctc_loss(log_probs, target, lengths, target_lengths, blank=blank, reduction="none", zero_infinity=True)
    return CTCLoss(loss, lengths >= frames_needed(target, target_lengths))


def frames_needed(target: Tensor, target_lengths: Tensor) -> Tensor:
    """Fewest frames that can carry each target: (batch,) int64. Shapes as in `ctc`."""
    index = torch.arange(1, max(1, target.shape[1]), device=target.device)
    repeated = (target[:, 1:] == target[:, :-1]) & (index < target_lengths.unsqueeze(1))
    return target_lengths + repeated.sum(dim=1)
