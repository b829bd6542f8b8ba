"""Log-mel, or MFCC, frontend and the Transformer of HuBERT: several times cheaper than the raw waveform (Fast-HuBERT, Yang et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audiossl.encoders._options import check_options
from audiossl.nn.fbank_frontend import FbankFrontend
from audiossl.nn.ssl_encoder import EncoderConfig, SSLEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class FBank(SSLEncoder):
    """80 log-mel filters or 39 cepstra and slopes, two convolutions, Transformer; call `calibrate` once before training."""

    frontend: FbankFrontend

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        """Defaults: the Transformer of base at 50 Hz."""

        feature_grad_mult: float = 1.0
        inputs: Literal["log_mel", "mfcc"] = "log_mel"
        """What the convolutions read; "mfcc": 13 cepstra, their slopes and the slopes of these, as in HuBERT's first labels."""
        num_mels: int = 80
        conv_dim: int = 512
        """Channels after each gate."""
        strides: tuple[int, ...] = (2, 1)
        """Of the convolutions, from 100 Hz."""
        activation: Literal["glu", "gelu"] = "glu"
        mean_norm: bool = False
        """Each utterance's own mean is taken off its filters; our variant."""

        def __post_init__(self) -> None:
            check_options(self)
            if self.inputs == "mfcc" and self.num_mels != FBank.Config.num_mels:
                raise ValueError(
                    f"encoder.num_mels: {self.num_mels} filters are for inputs = 'log_mel'; leave it out, or choose that"
                )

        @classmethod
        def fast_hubert(cls) -> FBank.Config:
            """Base at 25 Hz."""
            return cls(strides=(2, 2))

        @classmethod
        def nano(cls) -> FBank.Config:
            """4 layers of 256: trains on a laptop's processor.

            Its dropouts are 0: a model this small underfits, and random numbers are dear on a processor.
            """
            return cls(
                num_layers=4,
                dim=256,
                ffn_dim=1024,
                num_heads=4,
                dropout=0.0,
                attention_dropout=0.0,
                layer_drop=0.0,
                position_kernel=32,
                dropout_input=0.0,
                dropout_features=0.0,
                conv_dim=128,
            )

        @classmethod
        def tiny(cls) -> FBank.Config:
            """The smallest with all parts, for tests."""
            return cls(
                num_layers=2,
                dim=32,
                ffn_dim=64,
                num_heads=4,
                position_kernel=16,
                position_groups=4,
                conv_dim=16,
                mean_norm=True,
            )

    def __init__(self, config: Config | None = None) -> None:
        config = FBank.Config() if config is None else config
        frontend = FbankFrontend(
            inputs=config.inputs,
            num_mels=config.num_mels,
            conv_dim=config.conv_dim,
            strides=config.strides,
            activation=config.activation,
            mean_norm=config.mean_norm,
        )
        super().__init__(frontend, config)

    def calibrate(self, waveforms: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the mean and deviation of each mel filter; see `FbankFrontend.measure`."""
        self.frontend.measure(waveforms)
