"""Conformer blocks in place of the Transformer's, over the filterbank or the raw waveform (Gulati et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audiossl.encoders._options import check_options
from audiossl.nn.conformer import ConformerConfig, ConformerLayer
from audiossl.nn.conv_frontend import ConvFrontend
from audiossl.nn.fbank_frontend import FbankFrontend
from audiossl.nn.ssl_encoder import SSLEncoder
from audiossl.nn.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_FBANK_STRIDES = (2, 1)


class Conformer(SSLEncoder):
    """A frontend, convolutional positions and Conformer blocks; masks and layers are those of any `SSLEncoder`."""

    @dataclass(frozen=True)
    class Config(ConformerConfig):
        """Defaults: Conformer L on filterbanks at 50 Hz; the frontends are ours: the paper's is filterbanks, four times fewer frames.

        frontend: "fbank", 80 log-mel filters and gated convolutions as in Fast-HuBERT, or "conv", the seven convolutions of wav2vec 2.0, for which
        0.1 is the published feature_grad_mult. conv_dim: channels of either. strides: of the convolutions over filterbanks, from 100 Hz.
        """

        feature_grad_mult: float = 1.0
        frontend: Literal["fbank", "conv"] = "fbank"
        conv_dim: int = 512
        strides: tuple[int, ...] = _FBANK_STRIDES

        def __post_init__(self) -> None:
            super().__post_init__()
            check_options(self)
            if self.frontend == "conv" and self.strides != _FBANK_STRIDES:
                raise ValueError(
                    f"encoder.strides: {self.strides} are for frontend = 'fbank'; leave them out, or choose that"
                )

        @classmethod
        def tiny(cls) -> Conformer.Config:
            """The smallest with all parts, for tests."""
            return cls(
                num_layers=2,
                dim=32,
                ffn_dim=64,
                num_heads=4,
                position_kernel=16,
                position_groups=4,
                depthwise_kernel=5,
                conv_dim=16,
            )

    def __init__(self, config: Config | None = None) -> None:
        config = Conformer.Config() if config is None else config
        frontend = (
            FbankFrontend(conv_dim=config.conv_dim, strides=config.strides)
            if config.frontend == "fbank"
            else ConvFrontend(conv_dim=config.conv_dim)
        )
        super().__init__(frontend, config, Transformer(config, block=ConformerLayer))

    def calibrate(self, waveforms: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the mean and deviation of each mel filter (`FbankFrontend.measure`); convolutions of the waveform need none."""
        if isinstance(self.frontend, FbankFrontend):
            self.frontend.measure(waveforms)
