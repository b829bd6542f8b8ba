"""ECAPA-TDNN on 80 filters (Desplanques et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audiossl.encoders._options import check_options
from audiossl.nn.ecapa_blocks import EcapaBody
from audiossl.nn.speaker_encoder import SpeakerNetwork
from audiossl.nn.speaker_frontend import FrontendConfig


class EcapaTDNN(SpeakerNetwork):
    """Frames at 100 Hz: the first convolution and three SE-Res2Blocks; then aggregation and attentive statistics.

    6.2 million parameters with 512 channels and 14.7 with 1024 (table 1 of the paper): everything up to the embedding of 192, without
    the classifier. Differs from the paper: 80 filterbank features, as all public implementations have, for its 80 MFCCs.

    The published figures of sslsv are of one that differs from the paper, `variant = "sslsv"`: a block reads only the one before it, a batch norm follows
    the aggregation, ReLU and a batch norm stand before the tanh of the attention, none is behind the embedding, padding reflects, and variances are at
    least 1e-12.
    """

    @dataclass(frozen=True)
    class Config(FrontendConfig):
        """Defaults: the model of 512 channels."""

        features: Literal["mel_hamming", "mel_hann", "fbank"] = "fbank"
        num_mels: int = 80
        channels: int = 512
        pooled_dim: int = 1536
        """Features after aggregation, before pooling."""
        scale: int = 8
        """Groups of channels in a Res2 convolution."""
        bottleneck: int = 128
        """Of squeeze and excitation, and of the attention of the pooling."""
        embedding_dim: int = 192
        variant: Literal["paper", "sslsv"] = "paper"

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def large(cls) -> EcapaTDNN.Config:
            """1024 channels."""
            return cls(channels=1024)

        @classmethod
        def tiny(cls) -> EcapaTDNN.Config:
            """The smallest with all parts, for tests."""
            return cls(num_mels=10, channels=16, pooled_dim=12, scale=4, bottleneck=6, embedding_dim=8)

    def __init__(self, config: Config | None = None) -> None:
        config = EcapaTDNN.Config() if config is None else config
        body = EcapaBody(
            config.num_mels,
            channels=config.channels,
            pooled_dim=config.pooled_dim,
            embedding_dim=config.embedding_dim,
            scale=config.scale,
            bottleneck=config.bottleneck,
            variant=config.variant,
        )
        super().__init__(config, body)
