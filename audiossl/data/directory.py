"""What a data directory is to those who read it, whether its audio lies in files or in shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from audiossl.data.manifest import Column


class Source(Protocol):
    """What utterances are read from, by their number: a data directory, a part or a change of one, or loose recordings."""

    @property
    def path(self) -> Path:
        """Data directory."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Utterance ids."""
        ...

    @property
    def durations(self) -> np.ndarray:
        """(utterance,) float64, seconds."""
        ...

    def __len__(self) -> int:
        """Return the number of utterances."""
        ...

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """(sample,) float32 mono at `sample_rate` Hz: `seconds` from `start` on, all by default; AudioError names the place and cure."""
        ...

    def column(self, name: str) -> Sequence[str]:
        """What the table `name` says of each utterance; ValueError if it is not there."""
        ...


@dataclass(frozen=True)
class Wrapped:
    """A source over another: what a subclass does not say is as there."""

    source: Source

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def path(self) -> Path:
        """Data directory."""
        return self.source.path

    @property
    def ids(self) -> Sequence[str]:
        """Utterance ids."""
        return self.source.ids

    @property
    def durations(self) -> np.ndarray:
        """(utterance,) seconds."""
        return self.source.durations

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """(sample,) float32; `seconds` from `start` on, all by default."""
        return self.source.audio(
            index, sample_rate=sample_rate, start=start, seconds=seconds, allow_silent=allow_silent
        )

    def column(self, name: str) -> Sequence[str]:
        """One value for each utterance."""
        return self.source.column(name)


@runtime_checkable
class DataDirectory(Source, Protocol):
    """The utterances of a data directory in C order of their ids.

    `Manifest` reads Kaldi's layout, `ShardManifest` a folder of shards. Both pickle as their path. allow_commands: whether the
    programs that `wav.scp` names are run.
    """

    allow_commands: bool

    def recording(self, index: int) -> str:
        """Id of the recording that an utterance is, or is a part of."""
        ...

    def header_duration(self, index: int) -> float:
        """Seconds of an utterance, by what says where it is rather than by `utt2dur`."""
        ...

    def excerpt(self, index: int) -> bytes:
        """What tells the audio of an utterance from others by a small part of it, wherever it lies; b"" where it cannot be read."""
        ...

    def column(self, name: str) -> Column:
        """As of any source."""
        ...

    def column_names(self) -> list[str]:
        """Names of all columns, sorted."""
        ...

    def subset(self, indices: np.ndarray) -> Self:
        """The utterances `indices` alone, in that order; ValueError for one that there is not."""
        ...
