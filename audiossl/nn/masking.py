"""The mask of valid frames of a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Return (batch, frame) bool, True where a frame is not padding."""
    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)
