"""Any self-supervised encoder of ours with multi-head factorised attentive pooling (Peng et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from audiossl.encoders._ssl_speaker import SSLSpeakerConfig, SSLSpeakerEncoder, tiny_table
from audiossl.nn.mhfa import MHFA


class MHFASpeaker(SSLSpeakerEncoder):
    """Keys and values are two mixtures of the layers; 64 heads look at the frames, and a linear layer makes one vector of what they see."""

    @dataclass(frozen=True)
    class Config(SSLSpeakerConfig):
        """Defaults: the authors' code. compression_dim: of keys and values."""

        num_heads: int = 64
        compression_dim: int = 128
        embedding_dim: int = 256

        @classmethod
        def tiny(cls) -> MHFASpeaker.Config:
            """The smallest with all parts, all of them trained, for tests."""
            everything = {"name": "full", "freeze_frontend": False}
            small = cls(num_heads=3, compression_dim=4, embedding_dim=8)
            return replace(small, encoder=tiny_table("wav2vec2"), adapter=everything)

    def __init__(self, config: Config) -> None:
        super().__init__(
            config,
            lambda encoder: MHFA(
                encoder.dim,
                encoder.num_layers,
                num_heads=config.num_heads,
                compression_dim=config.compression_dim,
                embedding_dim=config.embedding_dim,
            ),
        )
