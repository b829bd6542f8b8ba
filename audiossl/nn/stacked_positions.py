"""Relative positions from several narrow convolutions in a row, as data2vec, DinoSR and SpidR have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from audiossl.nn.conv_block import ConvBlock

if TYPE_CHECKING:
    from torch import Tensor


class StackedPositions(nn.Module):
    """`depth` blocks of convolution, norm and GELU (Baevski et al., 2022, section 4.2). kernel: of each; published: 5 of 19."""

    def __init__(self, dim: int, *, depth: int, kernel: int, groups: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"position_depth {depth} leaves no positions; give at least 1")
        self.blocks = nn.ModuleList(ConvBlock(dim, dim, kernel=kernel, groups=groups) for _ in range(depth))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x: (batch, frame, dim), zero at padding. valid: (batch, frame) bool; None: there is no padding.

        Padding is zero before each convolution: published models hear what their norms make of it. Returns the same shape, to be added.
        """
        for i, block in enumerate(self.blocks):
            if i and valid is not None:
                x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
            x = block(x)
        return x
