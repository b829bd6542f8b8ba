"""FlexPredict: masked frames at uncertain positions (Bar et al., 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flexible_tokens(token: Tensor, weight: Tensor, frames: Tensor, variance: float) -> Tensor:
    """What stands at masked frames: m + A n_j with n_j ~ N(0, variance I), one for each frame: (batch, frame, dim).

    token: (dim,), m. weight: (dim, feature), the A through which visible frames go too: it cannot shrink to silence the noise, as one of its own would
    (section 3.2). frames: (batch, frame, feature), of which only the shape is looked at. From torch's global generator.
    """
    return token + math.sqrt(variance) * torch.randn_like(frames) @ weight.T
