"""Fast ResNet-34 (Chung et al., 2020): the light speaker encoder of most contrastive speaker models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audiossl.encoders._options import check_options
from audiossl.nn.resnet import ResNetBody, ResNetShape
from audiossl.nn.speaker_encoder import SpeakerNetwork
from audiossl.nn.speaker_frontend import FrontendConfig
from audiossl.nn.statistics_pooling import SelfAttentivePooling, StatisticsPooling


class FastResNet34(SpeakerNetwork):
    """A quarter of the channels of ResNet-34 and an early stride over frequency; frames at 25 Hz.

    1.44 million parameters with the defaults (Lepage and Dehak, 2024): stages, pooling and the linear layer of the embedding, without
    a projector.
    """

    @dataclass(frozen=True)
    class Config(FrontendConfig):
        """Defaults: additive-margin SimCLR (Lepage and Dehak, 2024)."""

        base_channels: int = 16
        """Of the first stage; each further one has twice as many."""
        blocks: tuple[int, ...] = (3, 4, 6, 3)
        pooling: Literal["self_attentive", "statistics"] = "self_attentive"
        """`self_attentive`: of frames averaged over frequency. `statistics`: of all channels and frequencies."""
        embedding_dim: int = 512

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def statistics(cls) -> FastResNet34.Config:
            """80 filters and statistics pooling, as the DINO models have it."""
            return cls(num_mels=80, pooling="statistics")

        @classmethod
        def tiny(cls) -> FastResNet34.Config:
            """The smallest with all parts, for tests."""
            return cls(num_mels=10, base_channels=32, blocks=(1, 1, 1, 1), embedding_dim=12)

    def __init__(self, config: Config | None = None) -> None:
        config = FastResNet34.Config() if config is None else config
        attentive = config.pooling == "self_attentive"
        body = ResNetBody(
            config.num_mels,
            ResNetShape(
                stem_kernel=7,
                stem_stride=2,
                base_channels=config.base_channels,
                strides=(1, 2, 2, 1),
                blocks=config.blocks,
            ),
            mean_over_bins=attentive,
            pooling=SelfAttentivePooling if attentive else StatisticsPooling,
            embedding_dim=config.embedding_dim,
        )
        super().__init__(config, body)
