"""Whole utterances, as evaluation, extraction and transcription read them: no crop, no label, no mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.audio import audio_info, read_audio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.contracts import Batch, Utterance


@dataclass(frozen=True)
class WholeUtterances:
    """Views for the loader: the waveform alone. min_samples: fewer than that give no frame, and make the utterance a bad one."""

    min_samples: int
    needs: tuple[str, ...] = ()

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - the loader's contract
        """Return the waveform."""
        samples = len(utterance.waveform)
        if samples < self.min_samples:
            raise ValueError(
                f"{utterance.id}: {samples / utterance.sample_rate:.3f} s is too short for one frame "
                f"({self.min_samples / utterance.sample_rate:.3f} s); leave it out"
            )
        return {"waveform": utterance.waveform}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        """Return the batch as it is."""
        return batch


@dataclass(frozen=True)
class FileList:
    """Loose recordings, read like a data directory without columns; an utterance's id is its path."""

    files: tuple[Path, ...]
    path: Path = field(default_factory=lambda: Path("recordings"))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def ids(self) -> Sequence[str]:
        """Paths as given."""
        return [str(file) for file in self.files]

    @cached_property
    def durations(self) -> np.ndarray:
        """(utterance,) seconds; AudioError names a file that is not a recording."""
        return np.array([audio_info(file).duration for file in self.files], dtype=np.float64)

    def audio(self, index: int, *, sample_rate: int) -> np.ndarray:
        """(sample,) float32."""
        return read_audio(self.files[index], sample_rate=sample_rate)

    def column(self, name: str) -> Sequence[str]:
        """Loose recordings have no columns."""
        raise ValueError(f"{name}: loose recordings have no such column; give a data directory")
