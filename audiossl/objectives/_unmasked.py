"""How often unmasked frames are named rightly: beside the masked ones it tells copying from predicting. Nothing is learnt from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_ENOUGH = 256
"""Frames of a training step, among thousands, so that the metric costs next to nothing."""


def looked_at(frames: Tensor, *, training: bool) -> Tensor:
    """All frames in evaluation, and in training every n-th, so that no more than 256 are left. frames: (frame, ...)."""
    return frames[:: max(1, -(-len(frames) // _ENOUGH))] if training else frames


@torch.no_grad()
def share_right(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy, the mean over codebooks, as sum and count over frames. predicted, targets: (frame, book) int64."""
    count = torch.full((), len(targets), dtype=torch.float32, device=targets.device)
    return (predicted == targets).float().mean(dim=1).sum(), count
