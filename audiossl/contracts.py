"""What the rooms of the house promise each other: the values that pass between encoders, objectives, tasks and the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import Tensor

Batch: TypeAlias = "dict[str, Any]"
"""What a loader yields: arrays of all utterances padded and stacked under the names that `views` gave them."""

Count = TypeVar("Count", int, "Tensor")
"""Samples or frames: of one utterance, or (batch,) int64."""


@dataclass(frozen=True)
class UnitsInput:
    """What an encoder is given that reads units in the place of a waveform.

    column: of the data directory, `units/NAME`. rate: units per second. num_codes: of the largest codebook that it can read.
    """

    column: str
    rate: int
    num_codes: int


@dataclass
class Utterance:
    """One utterance as `views` receives it.

    waveform: (sample,) float32 in [-1, 1], mono, at `sample_rate` Hz. columns: what the data directory says about it, by
    file name: `text`, `utt2spk` ... as str, `units/<name>` as an int64 array (label,).
    """

    id: str
    waveform: np.ndarray
    sample_rate: int
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.waveform) / self.sample_rate

    @property
    def clean(self) -> Utterance:
        """The same utterance as it was recorded: of this one the loader augments nothing."""
        return self

    @property
    def fastest(self) -> float:
        """Largest factor by which the loader may speed a piece up, 1 at the least: so much more must be cut to fill a crop without a seam."""
        return 1.0

    def cut(self, start: float, seconds: float) -> np.ndarray:
        """Samples from `start` on, in seconds; fewer at the end of the utterance.

        The loader decodes only this piece, where `waveform` decodes all, and augments each piece anew.
        """
        first = round(start * self.sample_rate)
        return self.waveform[first : first + round(seconds * self.sample_rate)]

    def signal(self, reads: UnitsInput | None) -> np.ndarray:
        """What an encoder is given of the whole utterance: the waveform or, for one that `reads` units, these: (unit,) int64.

        ValueError for units that it cannot read.
        """
        if reads is None:
            return self.waveform
        units: np.ndarray = self.columns[reads.column]
        if not len(units) or not 0 <= units.min() <= units.max() < reads.num_codes:
            raise ValueError(
                f"{self.id}: {reads.column} has no units or others than 0 to {reads.num_codes - 1}; apply them again"
            )
        return units


@dataclass
class EncoderOutput:
    """What an encoder gives: every layer, the input of the first block first.

    layers: `num_layers + 1` tensors of (batch, frame, dim). lengths: (batch,) int64, valid frames.
    """

    layers: list[Tensor]
    lengths: Tensor


@dataclass
class StepOutput:
    """What a training step gives: sums, so that any split into micro-batches and processes adds up to the same.

    loss_sum: scalar, differentiable. count: scalar, what to divide it by (frames, utterances). metrics: name -> (sum, count),
    detached scalars, logged as their ratio.
    """

    loss_sum: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@runtime_checkable
class Encoder(Protocol):
    """Waveform to frames. Padding changes nothing; `Config.tiny()` builds one for tests.

    One that is given units in the place of a waveform says so in one attribute more, `reads: UnitsInput`, which `read_by` asks for. Its samples are
    units: `stride` 1, `sample_rate` theirs.
    """

    dim: int
    stride: int
    sample_rate: int
    num_layers: int

    def __call__(self, waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        """waveform: (batch, sample) float; lengths: (batch,) int64, valid samples."""
        ...

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        ...


def read_by(encoder: object) -> UnitsInput | None:
    """Return what an encoder reads in the place of a waveform; None for most, which read that."""
    return getattr(encoder, "reads", None)


@runtime_checkable
class SpeakerEncoder(Encoder, Protocol):
    """An encoder with an utterance embedding on top of its frames."""

    embedding_dim: int

    def embed(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """(batch, sample) and (batch,) valid samples to (batch, embedding_dim), not normalised.

        ValueError where an utterance has no frame.
        """
        ...


class Trainable(Protocol):
    """What the loop trains: a pretraining objective, or an encoder with a task on top. Always an `nn.Module`."""

    needs: tuple[str, ...]
    """Files that it wants from the data directory: `text`, `utt2spk`, `units/km100` ..."""

    views: Callable[[Utterance, np.random.Generator], Mapping[str, Any]]
    """In the loader's workers, per utterance: crops, augmentation, aligned labels. Arrays, scalars or strings by name."""

    batch_views: Callable[[Batch, np.random.Generator], Batch]
    """In the loader's workers, per collated batch: masks, mixing."""

    after_step: Callable[[int], None]
    """After optimiser step `step` (1-based): EMA, queues, temperatures."""

    def __call__(self, batch: Batch) -> StepOutput:
        """One micro-batch."""
        ...
