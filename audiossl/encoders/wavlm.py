"""WavLM: wav2vec 2.0's encoder with gated relative positions in its attention (Chen et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from audiossl.encoders._options import check_options
from audiossl.nn.conv_encoder import ConvEncoder, ConvEncoderConfig
from audiossl.nn.gated_attention import GatedAttention, RelativeBias


class WavLM(ConvEncoder):
    """Its bias is a matrix per utterance and head, so frames are never packed and no flash kernel fits."""

    @dataclass(frozen=True)
    class Config(ConvEncoderConfig):
        """Defaults: base. num_buckets, max_distance: see `RelativeBias`."""

        num_buckets: int = 320
        max_distance: int = 800

        def __post_init__(self) -> None:
            check_options(self, num_buckets=4, max_distance=self.num_buckets // 4 + 1)

        @classmethod
        def tiny(cls) -> WavLM.Config:
            """Return the smallest one with all parts, for tests."""
            return cls(
                num_layers=2, dim=32, ffn_dim=64, num_heads=4, position_kernel=16, position_groups=4, conv_dim=16,
                num_buckets=16, max_distance=20,
            )  # fmt: skip

    def __init__(self, config: Config | None = None) -> None:
        config = WavLM.Config() if config is None else config
        super().__init__(config)
        self.transformer.packed = False
        bias = RelativeBias(config.num_heads, num_buckets=config.num_buckets, max_distance=config.max_distance)
        for i, layer in enumerate(self.transformer.layers):
            dropout = config.attention_dropout
            attention = GatedAttention(config.dim, config.num_heads, bias, owner=i == 0, dropout=dropout)
            for linear in (attention.qkv, attention.out, attention.gate):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            layer.attention = attention
