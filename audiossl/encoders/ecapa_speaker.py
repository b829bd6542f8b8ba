"""Any self-supervised encoder of ours with ECAPA-TDNN on a mixture of its layers, as WavLM was evaluated (Chen et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from audiossl.encoders._ssl_speaker import SSLSpeakerConfig, SSLSpeakerEncoder, tiny_table
from audiossl.nn.mhfa import EcapaHead


class EcapaSpeaker(SSLSpeakerEncoder):
    """The layers take the place of the filterbank of `ecapa_tdnn`."""

    @dataclass(frozen=True)
    class Config(SSLSpeakerConfig):
        """Defaults: the ECAPA-TDNN of 512 channels. pooled_dim: features after aggregation, before pooling."""

        channels: int = 512
        pooled_dim: int = 1536
        embedding_dim: int = 192

        @classmethod
        def tiny(cls) -> EcapaSpeaker.Config:
            """The smallest with all parts, all of them trained, for tests."""
            everything = {"name": "full", "freeze_frontend": False}
            small = cls(channels=32, pooled_dim=12, embedding_dim=8)
            return replace(small, encoder=tiny_table("fbank"), adapter=everything)

    def __init__(self, config: Config) -> None:
        super().__init__(
            config,
            lambda encoder: EcapaHead(
                encoder.dim,
                encoder.num_layers,
                channels=config.channels,
                pooled_dim=config.pooled_dim,
                embedding_dim=config.embedding_dim,
            ),
        )
