"""The convolutional block of data2vec: grouped convolution over time, layer norm, GELU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """GELU of the layer norm, without weights, of a convolution over time that keeps the number of frames (Baevski et al., 2023)."""

    def __init__(self, dim: int, out_dim: int, *, kernel: int, groups: int) -> None:
        super().__init__()
        if dim % groups or out_dim % groups:
            raise ValueError(f"{groups} groups do not divide {dim} and {out_dim} channels; change one of them")
        self.conv = nn.Conv1d(dim, out_dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frame, dim), zero at padding, which else would be heard. Returns (batch, frame, out_dim), not zero there."""
        y = self.conv(x.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2)  # an even kernel gives one frame too many
        return F.gelu(F.layer_norm(y, y.shape[-1:]))
