"""The decoder of data2vec 2.0: a few grouped convolutions over visible frames with noise between them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from audiossl.nn.conv_block import ConvBlock

if TYPE_CHECKING:
    from torch import Tensor


class ConvDecoder(nn.Module):
    """Blocks with residuals where widths agree: all but the first as a rule (Baevski et al., 2023, section 3.2)."""

    def __init__(self, dim: int, hidden_dim: int, *, depth: int, kernel: int, groups: int) -> None:
        super().__init__()
        widths = [dim] + [hidden_dim] * depth
        self.blocks = nn.ModuleList(
            ConvBlock(before, after, kernel=kernel, groups=groups) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x: (batch, frame, dim). valid: (batch, frame) bool. Returns (batch, frame, hidden_dim), zero at padding."""
        padding = ~valid.unsqueeze(-1)
        x = x.masked_fill(padding, 0.0)
        for block in self.blocks:
            y = block(x)
            x = (x + y if x.shape == y.shape else y).masked_fill(padding, 0.0)
        return x
