"""A data directory as one pass of a frozen upstream reads it: whole utterances, or random crops that are drawn beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from audiossl.data.directory import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiossl.data.manifest import Manifest


@dataclass(frozen=True)
class Pieces(Wrapped):
    """Pieces of utterances, in place of the utterances: a source for the loader and the pooled cache.

    owners: (piece,) utterance. starts: (piece,) seconds. seconds: the longest piece, None: whole utterances. Digital silence is read like
    anything else, for published test sets hold some.
    """

    owners: np.ndarray
    starts: np.ndarray
    seconds: float | None

    @classmethod
    def whole(cls, manifest: Manifest) -> Pieces:
        """Every utterance as it is."""
        return cls(manifest, np.arange(len(manifest)), np.zeros(len(manifest)), None)

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the utterances; of crops with their place, by which a cache tells other crops from these."""
        return Each(len(self.owners), self._id)

    @property
    def durations(self) -> np.ndarray:
        """(piece,) seconds."""
        found: np.ndarray = self.source.durations[self.owners]
        return found if self.seconds is None else np.minimum(found, self.seconds)

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = True,
    ) -> np.ndarray:
        """(sample,) float32, of the piece."""
        del allow_silent
        owner, first = int(self.owners[index]), float(self.starts[index])
        if self.seconds is not None and self.seconds < self.source.durations[owner]:
            left = self.seconds - start
            seconds = left if seconds is None else min(seconds, left)
        return self.source.audio(
            owner, sample_rate=sample_rate, start=first + start, seconds=seconds, allow_silent=True
        )

    def column(self, name: str) -> Sequence[str]:
        """Labels are read from the manifest, once for an utterance."""
        raise ValueError(f"{self.path / name}: pieces have no columns; read them from the data directory")

    def _id(self, index: int) -> str:
        name = self.source.ids[int(self.owners[index])]
        return name if self.seconds is None else f"{name}@{self.starts[index]:.6f}"


def draw_crops(manifest: Manifest, crops: int, seconds: float, seed: int) -> tuple[Pieces, np.ndarray]:
    """Draw `crops` random pieces of `seconds` of each utterance; returns them and (utterance, crop) piece numbers.

    A shorter utterance is taken whole, once, and every crop of it is that piece.
    """
    long = manifest.durations > seconds
    counts = np.where(long, crops, 1)
    owners = np.repeat(np.arange(len(manifest)), counts)
    starts = np.random.default_rng(seed).random(len(owners)) * np.maximum(manifest.durations[owners] - seconds, 0.0)
    first = np.cumsum(counts) - counts
    return Pieces(manifest, owners, starts, seconds), first[:, None] + np.where(long[:, None], np.arange(crops), 0)


class Each(Sequence[str]):
    """Values that are made when they are asked for."""

    def __init__(self, count: int, value: Callable[[int], str]) -> None:
        self._count, self._value = count, value

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._value(i) for i in range(*index.indices(self._count))]
        return self._value(index)
