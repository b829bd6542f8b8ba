"""HuBERT with batch norm in place of weight norm in its positions, as released for textless multilingual speech."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.encoders._options import check_options
from audiossl.nn.batch_norm_positions import BatchNormPositions
from audiossl.nn.conv_encoder import ConvEncoder, ConvEncoderConfig


class MHuBERT(ConvEncoder):
    """The encoder of wav2vec 2.0 otherwise."""

    @dataclass(frozen=True)
    class Config(ConvEncoderConfig):
        """Defaults: base."""

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def tiny(cls) -> MHuBERT.Config:
            """Return the smallest one with all parts, for tests."""
            return cls(
                num_layers=2, dim=32, ffn_dim=64, num_heads=4, position_kernel=16, position_groups=4, conv_dim=16
            )

    def __init__(self, config: Config | None = None) -> None:
        config = MHuBERT.Config() if config is None else config
        super().__init__(config)
        if config.position_depth != 1:
            raise ValueError(
                f"encoder.position_depth: {config.position_depth}; mhubert has one convolution, leave it out"
            )
        positions = BatchNormPositions(config.dim, kernel=config.position_kernel, groups=config.position_groups)
        self.transformer.add_module("positions", positions)
