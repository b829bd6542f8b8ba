"""Relative positions from a wide grouped convolution behind a batch norm, which takes the place of weight norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class BatchNormPositions(nn.Module):
    """GELU of a grouped convolution over batch-normed frames (fairseq's `conv_pos_batch_norm`). Statistics are of valid frames only."""

    def __init__(self, dim: int, *, kernel: int = 128, groups: int = 16) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} is not a multiple of position_groups {groups}; change one of the two")
        self.norm = nn.BatchNorm1d(dim)
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(self.conv.weight, std=math.sqrt(4 / (kernel * dim)))
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x: (batch, frame, dim). valid: (batch, frame) bool; None: there is no padding. Returns the same shape, to be added to it.

        Padding is zero to the convolution: published models hear what their norm makes of it.
        """
        if valid is None:
            valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.training:  # statistics are measured: on valid frames
            normed = torch.zeros_like(x)
            normed[valid] = self.norm(x[valid]).to(x.dtype)
        else:
            normed = self.norm(x.transpose(1, 2)).transpose(1, 2).masked_fill(~valid.unsqueeze(-1), 0.0)
        # With an even kernel, padding of half of it gives one frame too many, and the last is dropped.
        return F.gelu(self.conv(normed.transpose(1, 2))[:, :, : x.shape[1]]).transpose(1, 2)
