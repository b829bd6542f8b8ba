"""An encoder-decoder of transformer blocks from frames to tokens, trained with the true tokens before each and read out step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames

KeysValues: TypeAlias = "tuple[Tensor, Tensor]"
"""Of one block: (row, head, place, dim of a head) each."""


@dataclass(frozen=True)
class Memory:
    """What the decoder sees of the frames. blocks: keys and values for each of its blocks. mask: (batch, 1, 1, frame) bool, True = valid."""

    blocks: list[KeysValues]
    mask: Tensor


@dataclass(frozen=True)
class Sizes:
    """Of blocks. dim: of what passes between them. dropout: behind each sub-layer, on the attention and inside the feed-forward layers."""

    dim: int
    ffn_dim: int
    num_heads: int
    dropout: float


class Translator(nn.Module):
    """Convolutions that leave a quarter of the frames, pre-LN blocks over them, and pre-LN blocks that write (Wang et al., 2020: `s2t_transformer`).

    Token `mark` begins and ends every text. Differs from the published code: positions count from 0, and what convolutions give in the padding is zero
    to those after them, so that batch mates change nothing.
    """

    def __init__(
        self,
        input_dim: int,
        num_tokens: int,
        sizes: Sizes,
        *,
        encoder_layers: int,
        decoder_layers: int,
        conv_dim: int,
        conv_kernels: tuple[int, ...],
        mark: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.mark = sizes.dim, mark
        ends = len(conv_kernels) - 1
        inputs = [input_dim, *[conv_dim // 2] * ends]
        outputs = [*[conv_dim] * ends, 2 * sizes.dim]
        self.convs = nn.ModuleList(
            nn.Conv1d(given, made, kernel, stride=2, padding=kernel // 2)
            for given, made, kernel in zip(inputs, outputs, conv_kernels, strict=True)
        )
        self.encoder = nn.ModuleList(Block(sizes, sees=False) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(Block(sizes, sees=True) for _ in range(decoder_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(sizes.dim), nn.LayerNorm(sizes.dim)
        self.embedding = nn.Embedding(num_tokens, sizes.dim)
        self.output = nn.Linear(sizes.dim, num_tokens, bias=False)
        self.dropout = nn.Dropout(sizes.dropout)
        for table in (self.embedding.weight, self.output.weight):
            nn.init.normal_(table, std=sizes.dim**-0.5)

    def encode(self, features: Tensor, lengths: Tensor) -> Memory:
        """Look at frames: (batch, frame, input_dim), of which `lengths` (batch,) are valid."""
        x = features.transpose(1, 2)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            x = x.masked_fill(~valid_frames(lengths, x.shape[2]).unsqueeze(1), 0.0)
            x = F.glu(conv(x), dim=1)
            lengths = (lengths - 1) // 2 + 1
        mask = valid_frames(lengths, x.shape[2])[:, None, None]
        x = self._placed(x.transpose(1, 2), 0)
        for block in self.encoder:
            x, _ = block(x, mask=mask)
        x = self.encoder_norm(x)
        blocks = [block.remembered(x) for block in self.decoder if isinstance(block, Block)]
        return Memory(blocks, mask)

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Score what follows each token: (batch, token, vocabulary). tokens: (batch, token), the mark first."""
        return self._decoded(memory, tokens, None)[0]

    def step(self, memory: Memory, tokens: Tensor, past: list[KeysValues] | None) -> tuple[Tensor, list[KeysValues]]:
        """Score what follows the newest tokens: (row, vocabulary). tokens: (row,), as many rows for each utterance. past: of the tokens before."""
        logits, past = self._decoded(memory, tokens.unsqueeze(1), past)
        return logits[:, 0], past

    def _decoded(
        self, memory: Memory, tokens: Tensor, past: list[KeysValues] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        x = self._placed(self.embedding(tokens), 0 if past is None else past[0][0].shape[2])
        made = []
        for place, (block, remembered) in enumerate(zip(self.decoder, memory.blocks, strict=True)):
            before = None if past is None else past[place]
            x, now = block(x, past=before, seen=(*remembered, memory.mask))
            made.append(now)
        return self.output(self.decoder_norm(x)), made

    def _placed(self, x: Tensor, first: int) -> Tensor:
        """Add positions to (row, place, dim) whose first place is `first`."""
        scaled: Tensor = self.dropout(math.sqrt(self.dim) * x + positions(first, x.shape[1], self.dim).to(x))
        return scaled


class Block(nn.Module):
    """Self-attention, attention to the frames where it `sees` them, and a feed-forward layer, each behind a norm and beside an identity."""

    def __init__(self, sizes: Sizes, *, sees: bool) -> None:
        super().__init__()
        self.attention = Attention(sizes)
        self.attention_norm = nn.LayerNorm(sizes.dim)
        self.seeing = Attention(sizes) if sees else None
        self.seeing_norm = nn.LayerNorm(sizes.dim) if sees else None
        self.wide, self.narrow = nn.Linear(sizes.dim, sizes.ffn_dim), nn.Linear(sizes.ffn_dim, sizes.dim)
        self.wide_norm = nn.LayerNorm(sizes.dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def remembered(self, frames: Tensor) -> KeysValues:
        """Return what later calls see of the encoder's frames, (batch, frame, dim)."""
        assert self.seeing is not None
        return self.seeing.keys_values(frames)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        past: KeysValues | None = None,
        seen: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return (row, place, dim) like x, and keys and values of all places up to here.

        mask: of the places to attend to. past: of the places before. seen: keys, values and mask of the frames; then a place attends to those before it.
        """
        y = self.attention_norm(x)
        keys, values = self.attention.keys_values(y)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        causal = seen is not None and x.shape[1] > 1
        x = x + self.dropout(self.attention(y, keys, values, mask, causal=causal))
        if seen is not None:
            assert self.seeing is not None
            assert self.seeing_norm is not None
            # All rows of an utterance ask its frames at once, which are held once.
            asked = self.seeing_norm(x).reshape(len(seen[0]), -1, x.shape[2])
            x = x + self.dropout(self.seeing(asked, *seen)).view_as(x)
        hidden = self.dropout(self.wide(self.wide_norm(x)).relu())
        return x + self.dropout(self.narrow(hidden)), (keys, values)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al., 2017, eq. 1) from some places to others; starts as fairseq's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        if sizes.dim % sizes.num_heads:
            raise ValueError(
                f"task.dim: {sizes.dim} is not a multiple of num_heads {sizes.num_heads}; change one of the two"
            )
        self.num_heads, self.chance = sizes.num_heads, sizes.dropout
        self.query, self.key, self.value, self.out = (nn.Linear(sizes.dim, sizes.dim) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of places, (row, place, dim)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """Return (row, place, dim) like x."""
        chance = self.chance if self.training else 0.0
        found = F.scaled_dot_product_attention(
            self._split(self.query(x)), keys, values, mask, dropout_p=chance, is_causal=causal
        )
        attended: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return attended

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def positions(first: int, count: int, dim: int) -> Tensor:
    """Sines, then cosines of places from `first` on: (place, dim) float32, `dim` even (Vaswani et al., 2017, section 3.5)."""
    half = dim // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(half - 1, 1)))
    angles = torch.arange(first, first + count).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
