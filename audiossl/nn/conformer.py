"""Conformer blocks: attention and convolution between two half-step feed-forward networks (Gulati et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.attention import FrameLayout, NoAdapter, SelfAttention
from audiossl.nn.conv_frontend import convolve_frames
from audiossl.nn.ssl_encoder import EncoderConfig


@dataclass(frozen=True)
class ConformerConfig(EncoderConfig):
    """Size and regularisation; the defaults are Conformer L of table 1 of the paper.

    depthwise_kernel: frames that the convolution of each block hears; table 1 says 32, which has no middle, so 31 as in most code. conv_norm:
    what follows it. "batch" is the paper's batch norm, here over valid frames alone: each process has the statistics of its own micro-batches, so a
    run depends on how batches are dealt out, and in training utterances on one another. "layer", a norm over the channels of each frame, does
    not, and is our variant.
    """

    num_layers: int = 17
    dim: int = 512
    ffn_dim: int = 2048
    num_heads: int = 8
    activation_dropout: float = 0.1
    layer_drop: float = 0.0
    depthwise_kernel: int = 31
    conv_norm: Literal["layer", "batch"] = "layer"

    def __post_init__(self) -> None:
        if self.depthwise_kernel < 1 or self.depthwise_kernel % 2 == 0:
            raise ValueError(
                f"encoder.depthwise_kernel: {self.depthwise_kernel} frames have no middle; give an odd number"
            )
        if self.pre_norm:
            raise ValueError(
                "encoder.pre_norm: each part of a Conformer block has its norm before it anyway; leave it out"
            )


class ConformerLayer(nn.Module):
    """x + 1/2 FFN, x + attention, x + convolution, x + 1/2 FFN, layer norm (eq. 1): each part with a layer norm before it.

    The paper's attention has relative sinusoidal positions. Here positions come from the convolution before the first block, as in wav2vec 2.0,
    and from those in the blocks, so that attention needs no bias per pair of frames: our variant.
    `attention_adapter` and `ffn_adapter` (of the second network) are applied to a part's output before its residual is added.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(config.dim)
        self.first_ffn = _FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = SelfAttention(config.dim, config.num_heads, dropout=config.attention_dropout)
        self.convolution = ConvolutionModule(config)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.ffn = _FeedForward(config)
        self.final_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_adapter: nn.Module = NoAdapter()
        self.ffn_adapter: nn.Module = NoAdapter()

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: frames in `layout`. Returns the same shape."""
        return self.parts(x, layout)[0]

    def parts(self, x: Tensor, layout: FrameLayout) -> tuple[Tensor, Tensor]:
        """What `forward` gives and, of the same shape, half of what the second network gives; see `TransformerLayer.parts`."""
        x = x + 0.5 * self.dropout(self.first_ffn(self.first_norm(x)))
        x = x + self.attention_adapter(self.dropout(self.attention(self.attention_norm(x), layout)), layout)
        x = x + self.convolution(x, layout)
        given = self.ffn(self.ffn_norm(x))
        return self.final_norm(x + 0.5 * self.ffn_adapter(self.dropout(given), layout)), 0.5 * given

    @property
    def last_norm(self) -> nn.Module:
        """The norm of what the block gives."""
        return self.final_norm


class ConvolutionModule(nn.Module):
    """Layer norm, gate, depthwise convolution over time, norm, Swish, linear map, dropout (figure 2). Padding is not heard."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, kernel = config.dim, config.depthwise_kernel
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.conv_norm = nn.LayerNorm(dim) if config.conv_norm == "layer" else nn.BatchNorm1d(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: frames in `layout`. Returns the same shape."""
        x = convolve_frames(F.glu(self.gate(self.norm(x)), dim=-1), self.depthwise, layout)
        valid = None if layout.key_mask is None else layout.key_mask[:, 0, 0]
        return self.dropout(self.out(F.silu(self._normed(x, valid))))  # type: ignore[no-any-return]

    def _normed(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: in its layout. valid: (batch, frame), None where all of x is."""
        if isinstance(self.conv_norm, nn.LayerNorm):
            return self.conv_norm(x)  # type: ignore[no-any-return]
        if valid is None or not self.conv_norm.training:  # then each frame is by itself
            return self.conv_norm(x.reshape(-1, x.shape[-1])).view_as(x)  # type: ignore[no-any-return]
        frames = self.conv_norm(x[valid])
        return torch.zeros_like(x, dtype=frames.dtype).masked_scatter(valid.unsqueeze(-1), frames)


class _FeedForward(nn.Module):
    """Two linear maps with Swish and dropout between them (figure 4); the dropout after them is its block's."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.into = nn.Linear(config.dim, config.ffn_dim)
        self.out = nn.Linear(config.ffn_dim, config.dim)
        self.inner_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner_dropout(F.silu(self.into(x))))  # type: ignore[no-any-return]
