"""Whole utterances, as evaluation, extraction and transcription read them: no crop, no label, no mask."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.audio import audio_info, read_audio
from audiossl.data.loader import make_loader, make_sampler
from audiossl.data.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from audiossl.contracts import Batch, UnitsInput, Utterance
    from audiossl.data.directory import Source
    from audiossl.data.loader import LoaderConfig, Viewing


@dataclass(frozen=True)
class WholeUtterances:
    """Views for the loader: the waveform alone, or the units that an encoder `reads` instead.

    min_samples: fewer than that do not give `min_frames` frames, and make the utterance a bad one.
    """

    min_samples: int
    reads: UnitsInput | None = None
    min_frames: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that the loader must give."""
        return (self.reads.column,) if self.reads else ()

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - the loader's contract
        """Return the waveform, or what stands for it."""
        signal = utterance.signal(self.reads)
        require_frames(len(signal), self.min_samples, self.min_frames, rate=utterance.sample_rate)
        return {"waveform": signal}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        """Return the batch as it is."""
        return batch


def require_frames(samples: int, min_samples: int, min_frames: int, *, rate: int) -> None:
    """Raise ValueError for fewer samples than `min_frames` frames need. rate: samples per second."""
    if samples < min_samples:
        frames = "one frame" if min_frames == 1 else f"{min_frames} frames"
        raise ValueError(f"{samples / rate:.3f} s is too short for {frames} ({min_samples / rate:.3f} s); leave it out")


def one_epoch(
    source: Source,
    module: Viewing,
    config: LoaderConfig,
    *,
    sample_rate: int,
    first: int = 0,
    step: int = 1,
    label: str = "",
) -> Iterator[Batch]:
    """Every utterance once, longest first, of any length and without augmentation; always the same batches.

    first: number of the batch to begin with. step: with more than 1, only each so many-th batch from there on, as where processes share them. label: what the progress display calls this pass; "" shows none.
    """
    whole = as_whole(config)
    numbers = range(first, make_sampler(source, whole, seed=0, shuffle=False).batches_per_epoch(0), step)
    batches = make_loader(source, module, whole, sample_rate=sample_rate, seed=0, positions=numbers, shuffle=False)
    return progress(batches, len(numbers), label) if label else batches


def as_whole(config: LoaderConfig) -> LoaderConfig:
    """Return how `one_epoch` makes batches: nothing is left out or augmented."""
    return replace(config, min_duration=0.0, max_duration=None, augment=None)


@dataclass(frozen=True)
class FileList:
    """Loose recordings, read like a data directory; an utterance's id is its path. columns: what it has, one value for each file."""

    files: tuple[Path, ...]
    path: Path = field(default_factory=lambda: Path("recordings"))
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def ids(self) -> Sequence[str]:
        """Paths as given."""
        return [str(file) for file in self.files]

    @cached_property
    def durations(self) -> np.ndarray:
        """(utterance,) seconds; AudioError names a file that is not a recording."""
        return np.array([audio_info(file).duration for file in self.files], dtype=np.float64)

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """(sample,) float32."""
        path = self.files[index]
        return read_audio(path, start=start, duration=seconds, sample_rate=sample_rate, allow_silent=allow_silent)

    def column(self, name: str) -> Sequence[str]:
        """One of `columns`."""
        if name not in self.columns:
            raise ValueError(f"{name}: loose recordings have no such column; give a data directory")
        return self.columns[name]
