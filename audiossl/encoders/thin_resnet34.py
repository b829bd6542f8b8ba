"""Thin ResNet-34 with attention over every channel and frequency (Lepage and Dehak, 2022 and 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audiossl.encoders._options import check_options
from audiossl.nn.resnet import ResNetBody, ResNetShape
from audiossl.nn.speaker_encoder import SpeakerNetwork
from audiossl.nn.speaker_frontend import FrontendConfig
from audiossl.nn.statistics_pooling import ChannelAttentivePooling


class ThinResNet34(SpeakerNetwork):
    """ResNet-34 with fewer channels at full resolution in the first stage (Cai et al., 2018, table 1); frames at 12.5 Hz."""

    @dataclass(frozen=True)
    class Config(FrontendConfig):
        """Defaults: the encoder of the additive-margin models (Lepage and Dehak, 2023)."""

        preemphasis: float = 0.97
        base_channels: int = 16
        """Of the first stage; each further one has twice as many."""
        blocks: tuple[int, ...] = (3, 4, 6, 3)
        embedding_dim: int = 512
        stem: Literal["norm_relu", "relu_norm"] = "norm_relu"
        """`relu_norm`: the first convolution has a bias, ReLU and a batch norm follow, as in the authors' code of 2022 and 2023."""

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def large(cls) -> ThinResNet34.Config:
            """The larger encoder of 2023, and the encoder of 2022."""
            return cls(base_channels=32, embedding_dim=1024)

        @classmethod
        def tiny(cls) -> ThinResNet34.Config:
            """The smallest with all parts, for tests."""
            return cls(num_mels=10, base_channels=32, blocks=(1, 1, 1, 1), embedding_dim=12)

    def __init__(self, config: Config | None = None) -> None:
        config = ThinResNet34.Config() if config is None else config
        body = ResNetBody(
            config.num_mels,
            ResNetShape(
                stem_kernel=3,
                stem_stride=1,
                base_channels=config.base_channels,
                strides=(1, 2, 2, 2),
                blocks=config.blocks,
                stem=config.stem,
            ),
            mean_over_bins=False,
            pooling=ChannelAttentivePooling,
            embedding_dim=config.embedding_dim,
        )
        super().__init__(config, body)
