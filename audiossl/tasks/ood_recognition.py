"""Speech recognition far from what an encoder was pretrained on: another language, an accent, or spontaneous speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from torch import nn

from audiossl.nn.recurrent import BLSTM
from audiossl.tasks._ctc_head import RecurrentConfig, RecurrentCTC, error_rates
from audiossl.tasks._variants import CUT_BATCHES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder
    from audiossl.nn.vocabulary import Vocabulary


class OODRecognition(RecurrentCTC):
    """The task OOD-ASR of SUPERB-SG (Tsai et al., 2022): the head of ASR, with a linear layer and tanh behind each of its recurrent layers.

    Behind the projector it keeps one frame every 20 ms: every second one of an upstream of 10 ms. Differs from the published code: the characters are those
    of the training texts.
    """

    variant: ClassVar[str] = (
        f"characters of the training texts; SpecAugment masks up to its full widths, and no padding; {CUT_BATCHES}"
    )

    @dataclass(frozen=True)
    class Config(RecurrentConfig):
        """Texts come from `text`. chooses: `cer` where words are not written apart, as in Chinese."""

        column: str = "text"
        chooses: Literal["wer", "cer"] = "wer"

        @classmethod
        def tiny(cls) -> OODRecognition.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4, hidden_dim=3, time_warp=1, time_width=3, frequency_width=3)

    kind = "characters"

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(encoder_dim, num_layers, config, vocabulary)
        self.metric: tuple[str, Literal["min", "max"]] = (config.chooses, "min")
        self.blstm = _ProjectedBLSTM(config.projector_dim, config)  # type: ignore[assignment]  # called alike

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it for the tokens of a data directory."""
        task = super().from_data(encoder, config, manifest)
        task.step = _step(encoder)
        return task

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> Self:
        """Build it for the tokens that an experiment was trained with."""
        task = super().from_experiment(encoder, config, experiment)
        task.step = _step(encoder)
        return task

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Word and character error rate in percent."""
        return error_rates(predictions, references)


def _step(encoder: SSLEncoder) -> int:
    return max(1, round(0.02 * encoder.sample_rate / encoder.stride))


class _ProjectedBLSTM(nn.Module):
    """Layers of BLSTM, dropout, linear and tanh."""

    def __init__(self, input_dim: int, config: RecurrentConfig) -> None:
        super().__init__()
        width = 2 * config.hidden_dim
        inputs = (input_dim, *[width] * (config.num_layers - 1))
        self.layers = nn.ModuleList(BLSTM(size, config.hidden_dim, 1, dropout=config.dropout) for size in inputs)
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in inputs)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, frame, 2 hidden_dim). frames: (batch, frame, input_dim)."""
        for layer, projection in zip(self.layers, self.projections, strict=True):
            frames = projection(layer(frames, lengths)).tanh()
        return frames
