"""Relative positions from a wide grouped convolution, as wav2vec 2.0 has them."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ConvPositions(nn.Module):
    """GELU of a weight-normed grouped convolution over time (Baevski et al., 2020, section 2; Mohamed et al., 2019).

    The norm is per tap (dim 2). Weights start as N(0, 4 / (kernel * dim)), biases at 0. With an even kernel, padding of half of it gives one
    frame too many, and the last is dropped.
    """

    def __init__(self, dim: int, *, kernel: int = 128, groups: int = 16) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} is not a multiple of position_groups {groups}; change one of the two")
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * dim)))
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frame, dim), zero at padding, which else would be heard. Returns the same shape, to be added to it."""
        positions = self.conv(x.transpose(1, 2))[:, :, : x.shape[1]]
        return F.gelu(positions).transpose(1, 2)
