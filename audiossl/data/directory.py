"""What a data directory is to those who read it, whether its audio lies in files or in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from audiossl.data.manifest import Column


@runtime_checkable
class DataDirectory(Protocol):
    """The utterances of a data directory in C order of their ids; utterances are named by their number.

    `Manifest` reads Kaldi's layout, `ShardManifest` a folder of shards. Both pickle as their path. allow_commands: whether the
    programs that `wav.scp` names are run.
    """

    path: Path
    allow_commands: bool

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

    def recording(self, index: int) -> str:
        """Id of the recording that an utterance is, or is a part of."""
        ...

    def header_duration(self, index: int) -> float:
        """Seconds of an utterance, by what says where it is rather than by `utt2dur`."""
        ...

    def column(self, name: str) -> Column:
        """What the table `name` says of each utterance; ValueError if it is not there."""
        ...

    def column_names(self) -> list[str]:
        """Names of all columns, sorted."""
        ...

    def subset(self, indices: np.ndarray) -> Self:
        """The utterances `indices` alone, in that order; ValueError for one that there is not."""
        ...
