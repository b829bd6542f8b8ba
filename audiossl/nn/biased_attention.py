"""Self-attention with a bias for each pair of frames: what WavLM and data2vec 2.0 have beside convolutional positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.attention import SelfAttention

if TYPE_CHECKING:
    from audiossl.nn.attention import FrameLayout


class BiasedAttention(SelfAttention):
    """Self-attention whose logits are query . key / sqrt(head_dim) + bias; a subclass says which bias. Frames are never packed, and no flash kernel fits."""

    def bias_of(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """The bias in the layout of x, (head, query, key) or (batch, head, query, key), where gathered frames keep the distances that they have in time."""
        raise NotImplementedError

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: (batch, frame, dim), or gathered frames. Returns the same shape."""
        assert layout.offsets is None, "packed frames have no matrix of biases"
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)
        bias = self.bias_of(x, layout)
        if layout.key_mask is not None:
            bias = bias.masked_fill(~layout.key_mask, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)
        return self.out(attended.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def positions_in(layout: FrameLayout) -> Tensor | None:
    """Which frames of each utterance are there, (batch, place) int64; None where all are."""
    return None if layout.index is None else layout.index % layout.num_frames


class LinearBias(nn.Module):
    """ALiBi without a direction: -scale_h slope_h |i - j| (Press et al., 2022), with a learned scale per head (Baevski et al., 2023, data2vec 2.0).

    Slopes are the geometric series of the paper, from 2^(-8 / heads) on; where the number of heads is no power of 2, those of the next smaller one and every
    other one of the next greater. Scales start at 1, and negative ones count as 0.
    """

    slopes: Tensor

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(_slopes(num_heads)), persistent=False)
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(self, num_frames: int, positions: Tensor | None = None) -> Tensor:
        """(head, query frame, key frame) of `num_frames` frames, or (batch, head, query place, key place) at `positions`, (batch, place) int64."""
        frame = torch.arange(num_frames, device=self.scale.device) if positions is None else positions
        distance = (frame.unsqueeze(-2) - frame.unsqueeze(-1)).abs().unsqueeze(-3)  # (..., 1, query, key)
        return -(self.scale.clamp(min=0) * self.slopes)[:, None, None] * distance


class LinearBiasAttention(BiasedAttention):
    """`bias` belongs to the first layer that gets it; others pass `owner=False` and only look."""

    def __init__(self, dim: int, num_heads: int, bias: LinearBias, *, owner: bool, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout=dropout)
        if owner:
            self.bias = bias
        self._bias = (bias,)  # in a tuple, where it is no part of this layer's state

    def bias_of(self, x: Tensor, layout: FrameLayout) -> Tensor:  # noqa: ARG002 - nothing that frames hold matters
        """See `BiasedAttention` and `LinearBias`."""
        bias: Tensor = self._bias[0](layout.num_frames, positions_in(layout))
        return bias


def _slopes(heads: int) -> list[float]:
    power = 1 << (heads.bit_length() - 1)
    series = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return series + ([] if power == heads else _slopes(2 * power)[::2][: heads - power])
