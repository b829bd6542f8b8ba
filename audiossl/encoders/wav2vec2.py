"""wav2vec 2.0 and HuBERT: convolutions on the raw waveform, 50 Hz by default (Baevski et al., 2020; Hsu et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from audiossl.encoders._options import check_options
from audiossl.nn.biased_attention import LinearBias, LinearBiasAttention
from audiossl.nn.conv_frontend import CONV_KERNELS, CONV_STRIDES, ConvFrontend
from audiossl.nn.ssl_encoder import EncoderConfig, SSLEncoder
from audiossl.nn.transformer import Transformer, TransformerLayer


class Wav2Vec2(SSLEncoder):
    """The encoder that wav2vec 2.0, HuBERT and most of their successors share; only the way it is pretrained differs."""

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        """Defaults: base, 94.4 million parameters."""

        conv_dim: int = 512
        conv_kernels: tuple[int, ...] = CONV_KERNELS
        conv_strides: tuple[int, ...] = CONV_STRIDES
        """Of each convolution, in frames of its input; the hop of the encoder is the product of the strides, 320 samples by default."""
        conv_norm: Literal["group", "layer"] = "group"
        conv_bias: bool = False
        legacy_norm: bool = False
        """Padding counts in the group norm's statistics, as published: an utterance then depends on its batch."""
        sample_rate: int = 16000
        """Hz; MERT has 24000. Recordings are resampled to it, and frames come as many samples apart at any rate."""
        attention_relax: float = 0.0
        """Above 0 (MERT 330M: 32), logits of attention are kept small enough for float16, without fused kernels; see `nn.attention`."""
        alibi: bool = False
        """Attention falls off with distance, by a learned scale per head (data2vec 2.0), without flash kernels; see `nn.biased_attention`."""

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def base(cls) -> Wav2Vec2.Config:
            """12 layers, 94.4 million parameters."""
            return cls()

        @classmethod
        def large(cls) -> Wav2Vec2.Config:
            """24 pre-LN layers, 315 million parameters, with the regularisation of the 60 000 hour models."""
            return cls._pre_norm(num_layers=24, dim=1024, ffn_dim=4096)

        @classmethod
        def xlarge(cls) -> Wav2Vec2.Config:
            """48 pre-LN layers, 963 million parameters."""
            return cls._pre_norm(num_layers=48, dim=1280, ffn_dim=5120)

        @classmethod
        def tiny(cls) -> Wav2Vec2.Config:
            """The smallest with all parts, for tests; the hop is still 320 samples."""
            return cls(
                num_layers=2, dim=32, ffn_dim=64, num_heads=4, position_kernel=16, position_groups=4, conv_dim=16
            )

        @classmethod
        def _pre_norm(cls, *, num_layers: int, dim: int, ffn_dim: int) -> Wav2Vec2.Config:
            return cls(
                num_layers=num_layers,
                dim=dim,
                ffn_dim=ffn_dim,
                num_heads=16,
                pre_norm=True,
                dropout=0.0,
                attention_dropout=0.0,
                layer_drop=0.0,
                feature_grad_mult=1.0,
                dropout_input=0.0,
                dropout_features=0.0,
                normalise_waveform=True,
                conv_norm="layer",
                conv_bias=True,
            )

    def __init__(self, config: Config | None = None) -> None:
        config = Wav2Vec2.Config() if config is None else config
        frontend = ConvFrontend(
            conv_dim=config.conv_dim,
            norm=config.conv_norm,
            conv_bias=config.conv_bias,
            legacy_norm=config.legacy_norm,
            sample_rate=config.sample_rate,
            kernels=config.conv_kernels,
            strides=config.conv_strides,
        )
        relax = config.attention_relax
        if relax and config.alibi:
            raise ValueError(f"encoder.attention_relax: {relax} has no form with encoder.alibi; leave one of them out")
        relaxed = Transformer(config, packed=False, block=partial(TransformerLayer, relax=relax)) if relax else None
        super().__init__(frontend, config, relaxed)
        if config.alibi:
            self._bias_attention(config)

    def _bias_attention(self, config: Config) -> None:
        """Give all blocks attention with one linear bias."""
        self.transformer.packed = False
        bias = LinearBias(config.num_heads)
        for i, layer in enumerate(self.transformer.layers):
            dropout = config.attention_dropout
            attention = LinearBiasAttention(config.dim, config.num_heads, bias, owner=i == 0, dropout=dropout)
            for linear in (attention.qkv, attention.out):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            layer.attention = attention
