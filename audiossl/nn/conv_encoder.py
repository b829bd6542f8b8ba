"""What encoders on the convolutions of wav2vec 2.0 have in common beside their Transformer, for those that change a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audiossl.nn.conv_frontend import CONV_KERNELS, CONV_STRIDES, ConvFrontend
from audiossl.nn.ssl_encoder import EncoderConfig, SSLEncoder


@dataclass(frozen=True)
class ConvEncoderConfig(EncoderConfig):
    """The frontend's options; the defaults are wav2vec 2.0 base."""

    conv_dim: int = 512
    conv_kernels: tuple[int, ...] = CONV_KERNELS
    conv_strides: tuple[int, ...] = CONV_STRIDES
    """Of each convolution, in frames of its input; the hop of the encoder is the product of the strides, 320 samples by default."""
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    legacy_norm: bool = False
    """Padding counts in the group norm's statistics, as published: an utterance then depends on its batch."""


class ConvEncoder(SSLEncoder):
    """Convolutions on the waveform and a Transformer, of which a subclass replaces parts."""

    def __init__(self, config: ConvEncoderConfig) -> None:
        frontend = ConvFrontend(
            conv_dim=config.conv_dim,
            norm=config.conv_norm,
            conv_bias=config.conv_bias,
            legacy_norm=config.legacy_norm,
            kernels=config.conv_kernels,
            strides=config.conv_strides,
        )
        super().__init__(frontend, config)
