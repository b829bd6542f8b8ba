"""Self-attention over utterances of different lengths, without ever building a (batch, frame, frame) mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames


@dataclass(frozen=True)
class FrameLayout:
    """How the frames of a batch lie in memory while the blocks run.

    Even: all utterances fill the batch, so no mask is needed. Padded: `key_mask` (batch, 1, 1, frame), True = valid, broadcast over queries.
    Packed: only the valid frames, one utterance after the other, (valid frame, dim); `index` says where each lies in (batch * frame),
    `offsets` (batch + 1,) where each utterance starts. Flash attention takes this layout but no mask.
    Gathered: some frames of each utterance moved to its front, (batch, gathered frame, dim), with `key_mask` and a 2-d `index`.
    """

    batch: int
    num_frames: int
    key_mask: Tensor | None = None
    index: Tensor | None = None
    offsets: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor, num_frames: int, *, packed: bool) -> FrameLayout:
        """Choose the layout of a batch. lengths: (batch,), valid frames."""
        batch = len(lengths)
        if bool((lengths == num_frames).all()):
            return cls(batch, num_frames)
        if packed:
            index = valid_frames(lengths, num_frames).flatten().nonzero().squeeze(1)
            return cls(batch, num_frames, index=index, offsets=F.pad(lengths.cumsum(0), (1, 0)))
        # An utterance without frames attends to its first padding frame: a softmax over nothing would be NaN.
        return cls(batch, num_frames, key_mask=valid_frames(lengths.clamp(min=1), num_frames)[:, None, None])

    @classmethod
    def of_visible(cls, visible: Tensor, *, packed: bool) -> FrameLayout:
        """Choose the layout of some frames of a batch, packed or gathered. visible: (batch, frame) bool, True = takes part."""
        batch, num_frames = visible.shape
        counts = visible.sum(1)
        if packed:
            index = visible.flatten().nonzero().squeeze(1)
            return cls(batch, num_frames, index=index, offsets=F.pad(counts.cumsum(0), (1, 0)))
        width = max(1, int(counts.max()))
        # Visible frames first, in their order; the places behind them hold others of the same utterance, which no query sees.
        order = visible.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
        index = order + num_frames * torch.arange(batch, device=visible.device).unsqueeze(1)
        return cls(batch, num_frames, key_mask=valid_frames(counts.clamp(min=1), width)[:, None, None], index=index)

    def enter(self, x: Tensor) -> Tensor:
        """From (batch, frame, dim) to this layout."""
        return x if self.index is None else x.flatten(0, 1)[self.index]

    def leave(self, x: Tensor) -> Tensor:
        """From this layout to (batch, frame, dim); a packed one is zero at padding, the others are undefined."""
        if self.index is None:
            return x
        frames = x.new_zeros(self.batch * self.num_frames, x.shape[-1])
        frames = frames.index_copy(0, self.index.flatten(), x.flatten(0, -2))
        return frames.view(self.batch, self.num_frames, -1)


class NoAdapter(nn.Module):
    """What an adapter's slot holds until there is one: the identity. Adapters take the same arguments."""

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:  # noqa: ARG002 - for adapters that look at more than one frame
        """x: frames in `layout`."""
        return x


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al., 2017, eq. 1), query, key and value from one matrix in that order.

    relax: above 0, logits are divided by it before the product of query and key, and multiplied by it once their maximum is taken off: the same
    attention with logits that fit into float16 (Ding et al., 2021, section 2.4; MERT 330M). No fused kernel does this, and packed layouts cannot.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0, relax: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}; change one of the two")
        self.num_heads = num_heads
        self.dropout = dropout
        self.relax = relax
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: (batch, frame, dim), or (valid frame, dim) where the layout is packed. Returns the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)  # (..., head, head_dim)
        dropout = self.dropout if self.training else 0.0
        if layout.offsets is not None:
            assert not self.relax, "relaxed attention has no packed form"
            attended = _attend_packed(query, key, value, layout, dropout)
        elif self.relax:
            attended = _attend_relaxed(query, key, value, layout.key_mask, dropout, self.relax)
        else:
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), layout.key_mask, dropout
            ).transpose(1, 2)
        return self.out(attended.flatten(-2))  # type: ignore[no-any-return]


def _attend_packed(query: Tensor, key: Tensor, value: Tensor, layout: FrameLayout, dropout: float) -> Tensor:
    """query, key, value: (valid frame, head, head_dim). Each utterance attends to itself, through nested tensors."""

    def nest(x: Tensor) -> Tensor:
        # Nested tensors are refused where query, key and value are views of one matrix.
        nested = torch.nested.nested_tensor_from_jagged(
            x.contiguous(), layout.offsets, min_seqlen=1, max_seqlen=layout.num_frames
        )
        return nested.transpose(1, 2)  # (batch, head, frame, head_dim)

    attended = F.scaled_dot_product_attention(nest(query), nest(key), nest(value), dropout_p=dropout)
    return attended.transpose(1, 2).values()


def _attend_relaxed(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float, relax: float
) -> Tensor:
    """query, key, value: (batch, frame, head, head_dim). See `SelfAttention`."""
    small = query / (relax * math.sqrt(query.shape[-1]))
    logits = small.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (batch, head, frame, frame)
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask, -math.inf)
    weights = ((logits - logits.amax(dim=-1, keepdim=True)) * relax).softmax(dim=-1)
    return (F.dropout(weights, dropout) @ value.transpose(1, 2)).transpose(1, 2)
