"""A Transformer over units instead of a waveform: the encoder of discrete BERT (Baevski et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from audiossl.contracts import Count, EncoderOutput, UnitsInput
from audiossl.encoders._options import check_options
from audiossl.nn.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from torch import Tensor


class Codes(nn.Module):
    """Units to frames in context. Padding changes nothing.

    Where other encoders are given a waveform, this one is given units, one per frame: stride is 1, and sample_rate is theirs. What is put on it reads the
    label set that its configuration names; what needs recordings refuses it.
    """

    stride = 1

    @dataclass(frozen=True)
    class Config(TransformerConfig):
        """Defaults: BERT base with the convolutional positions of wav2vec 2.0.

        labels: the units that it reads, `units/<labels>` of a data directory. num_codes: the largest codebook that fits; the published vocabulary
        has about 13,500 (secondary source). rate: of the units, Hz. dropout_input: of the embedded units, which nobody published; BERT's own is that of the Transformer's input.
        """

        labels: str = "vq_wav2vec"
        num_codes: int = 13500
        rate: int = 100
        layer_drop: float = 0.0
        dropout_input: float = 0.0

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def tiny(cls) -> Codes.Config:
            """The smallest with all parts, for tests."""
            return cls(
                num_layers=2, dim=32, ffn_dim=64, num_heads=4, position_kernel=16, position_groups=4, num_codes=9
            )

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = Codes.Config() if config is None else config
        self.dim, self.num_layers = config.dim, config.num_layers
        self.num_codes, self.sample_rate = config.num_codes, config.rate
        self.reads = UnitsInput(f"units/{config.labels}", config.rate, config.num_codes)
        self.embedding = nn.Embedding(config.num_codes, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.mask_emb = nn.Parameter(0.02 * torch.randn(config.dim))
        self.transformer = Transformer(config)

    def num_frames(self, samples: Count) -> Count:
        """Each unit is a frame."""
        return samples

    def read_codes(self, codes: Tensor) -> Tensor:
        """Embed units. codes: (batch, frame) int64, anything below 0 at padding. Returns (batch, frame, dim)."""
        if codes.is_floating_point():
            raise ValueError("encoder codes: reads units, not a waveform; give it the labels of `audiossl units apply`")
        x: Tensor = self.embedding(codes.clamp(min=0))
        return x

    def contextualise(
        self,
        z: Tensor,
        lengths: Tensor,
        *,
        masked: Tensor | None = None,
        channels_masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Frames in context. z: (batch, frame, dim), as `read_codes` gives it; lengths: (batch,), valid frames.

        masked: (batch, frame) bool, True = `mask_emb` instead. channels_masked: (batch, dim) bool, True = then 0 in all frames. num_layers: stop
        after so many blocks.
        """
        z = self.dropout_input(z)
        if masked is not None:
            z = torch.where(masked.unsqueeze(-1), self.mask_emb, z)
        if channels_masked is not None:
            z = z.masked_fill(channels_masked.unsqueeze(1), 0.0)
        return EncoderOutput(self.transformer(z, lengths, num_layers=num_layers), lengths)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor,
        *,
        masked: Tensor | None = None,
        channels_masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """waveform: the units, see `read_codes`; the others: see `contextualise`."""
        z = self.read_codes(waveform)
        return self.contextualise(z, lengths, masked=masked, channels_masked=channels_masked, num_layers=num_layers)
