"""WavLM's attention: a bias for each relative position, shared by all layers, and gates that scale it by what a frame holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from audiossl.nn.biased_attention import BiasedAttention, positions_in

if TYPE_CHECKING:
    from audiossl.nn.attention import FrameLayout


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative positions (Raffel et al., 2020, T5).

    Half of the buckets are for keys after the query. Of each half, the first half are exact distances and the rest grow logarithmically up to
    `max_distance` frames; everything beyond shares the last.
    """

    def __init__(self, num_heads: int, *, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.num_buckets = num_buckets
        self.weight = nn.Parameter(torch.randn(num_buckets, num_heads) * 0.02)

    def forward(self, num_frames: int, positions: Tensor | None = None) -> Tensor:
        """(head, query frame, key frame) where `num_frames` frames follow one another.

        positions: (batch, place) int64, the frames that are there, of `num_frames`; then (batch, head, query place, key place).
        """
        frame = torch.arange(num_frames, device=self.weight.device) if positions is None else positions
        distances = torch.arange(1 - num_frames, num_frames, device=self.weight.device)
        by_distance = self.weight[self.bucket(distances)].t()  # (head, 2 * frame - 1)
        gaps = frame.unsqueeze(-2) - frame.unsqueeze(-1)  # (..., query, key)
        return by_distance[:, gaps + num_frames - 1].movedim(0, -3)

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance from query to key, in frames: int64."""
        half = self.num_buckets // 2
        exact = half // 2
        length = distance.abs()
        growth = torch.log(length.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (growth * (half - exact))).long().clamp(max=half - 1)
        return torch.where(length < exact, length, far) + half * (distance > 0)


class GatedAttention(BiasedAttention):
    """Self-attention with a gated relative bias (Chen et al., 2022, section III-B).

    Per frame and head, gates r_u and r_w in (0, 1) come from a linear map of the frame's share of that head; the bias is scaled by
    r_u (s r_w - 1) + 2, with a learned s per head. `bias` belongs to the first layer that gets it; others pass `owner=False` and only look.
    """

    def __init__(self, dim: int, num_heads: int, bias: RelativeBias, *, owner: bool, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout=dropout)
        self.gate = nn.Linear(dim // num_heads, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        if owner:
            self.bias = bias
        self._bias = (bias,)  # in a tuple, where it is no part of this layer's state

    def bias_of(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """(batch, head, frame, frame); see `BiasedAttention`."""
        bias: Tensor = self._bias[0](layout.num_frames, positions_in(layout))
        return self._gates(x) * bias

    def _gates(self, x: Tensor) -> Tensor:
        """(batch, head, frame, 1)."""
        shares = x.reshape(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)  # (batch, head, frame, head_dim)
        eight: Tensor = self.gate(shares)
        update, reset = eight.view(*eight.shape[:-1], 2, 4).sum(-1).sigmoid().chunk(2, dim=-1)
        gates: Tensor = update * (reset * self.gate_scale - 1) + 2
        return gates
