"""Frames of whole utterances from the upstream, computed once and kept on disk within a budget.

A store is `frames.bin` (utterance after utterance, each (layer, frame, dim)) with `index.npy`: offset and number of frames of each
utterance. An utterance stands in the index once its frames are safe on disk, so that a kill loses at most one batch. The first batch
that does not fit closes the store: what it holds is then a function of the stream of batches alone, and a run that is resumed
computes again just what it computed before. Several processes may add to one store.
Stores of one folder share a budget: `in_use` removes those that nobody uses where others want their place.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audiossl.data.directory import Wrapped
from audiossl.data.json_files import read_json, write_json
from audiossl.diagnostics.pooled_cache import data_digest
from audiossl.files import locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from audiossl.data.directory import Source
    from audiossl.diagnostics.sources import FeatureSource

CacheType = Literal["float32", "float16"]
_FRAMES, _CARD, _USED = "frames.bin", "frames.json", "used"


class FrameStore:
    """Frames of the utterances of one data directory, by row; rows that are not there are computed by the caller.

    max_bytes: never more than that is written; what an earlier run wrote beyond it stays.
    """

    def __init__(self, folder: Path, manifest: Source, source: FeatureSource, dtype: CacheType, max_bytes: int) -> None:
        data = data_digest(manifest)
        facts = {
            "source_digest": source.digest,
            "data_digest": data,
            "utterances": len(manifest.ids),
            "layers": source.num_layers,
            "dim": source.dim,
            "dtype": dtype,
        }
        place = store_place(folder, manifest, source, dtype, data)
        self.path, self._index_path, card = place / _FRAMES, place / "index.npy", place / _CARD
        self.dtype, self.max_bytes = np.dtype(dtype), max_bytes
        self._layers, self._dim = source.num_layers, source.dim
        place.mkdir(parents=True, exist_ok=True)
        with locked(place):
            if not (card.is_file() and read_json(card) == facts):
                self.path.write_bytes(b"")
                # One row more than utterances: bytes in use, and the budget at which the store was closed.
                np.save(self._index_path, np.zeros((len(manifest.ids) + 1, 2), np.int64))
                write_json(card, facts)
        # Shared with the loader's workers: they see what is added while they run.
        self._index: np.memmap[Any, np.dtype[np.int64]] = np.load(self._index_path, mmap_mode="r+")

    @property
    def closed(self) -> bool:
        """Whether nothing more is kept; a larger budget opens it again."""
        return bool(self._index[-1, 1] >= self.max_bytes)

    def has(self, row: int) -> bool:
        """Whether the frames of an utterance are here; never changes back."""
        return self.frames(row) > 0

    def frames(self, row: int) -> int:
        """Return the number of frames of an utterance, 0 where they are not here."""
        return int(self._index[row, 1])

    def read(self, row: int, layer: int | None = None) -> np.ndarray:
        """Frames of an utterance in the store's dtype: (layer, frame, dim), or of one layer (frame, dim)."""
        offset, frames = (int(value) for value in self._index[row])
        shape: tuple[int, ...] = (self._layers, frames, self._dim)
        if layer is not None:
            shape = shape[1:]
            offset += layer * math.prod(shape) * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, math.prod(shape), offset=offset).reshape(shape)

    def add(self, rows: Sequence[int], frames: Sequence[np.ndarray]) -> None:
        """Keep the frames of all of these utterances, (layer, frame, dim) each, or of none and close the store."""
        with locked(self.path.parent):
            # Another process may have added some.
            absent = [place for place, row in enumerate(rows) if not self.has(row)]
            self._add([rows[place] for place in absent], [frames[place] for place in absent])

    def _add(self, rows: Sequence[int], frames: Sequence[np.ndarray]) -> None:
        used, size = int(self._index[-1, 0]), sum(array.nbytes for array in frames)
        if self.closed or used + size > self.max_bytes:
            self._index[-1, 1] = max(int(self._index[-1, 1]), self.max_bytes)
            return
        with self.path.open("r+b") as file:
            file.seek(used)
            for array in frames:
                file.write(np.ascontiguousarray(array).data)
            file.flush()
            os.fsync(file.fileno())
        self._index[-1, 0] = used + size
        for row, array in zip(rows, frames, strict=True):
            self._index[row, 0] = used
            self._index[row, 1] = array.shape[1]  # from here on it is there
            used += array.nbytes


def store_place(folder: Path, manifest: Source, source: FeatureSource, dtype: CacheType, data: str = "") -> Path:
    """Folder of a store. data: digest of the data directory, where it is known."""
    return folder / f"{manifest.path.name}-{(data or data_digest(manifest))[:8]}-{source.digest[:8]}-{dtype}"


@contextmanager
def in_use(folder: Path, places: Sequence[Path], size: int, budget: int) -> Iterator[int]:
    """Hold stores of `folder`, there or not yet, and give the bytes that they may take together.

    Others are removed, the oldest first, until `size` bytes fit into the budget; those that another run holds stay, and what they take is left out.
    On file systems without locks all stay.
    """
    with ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for place in places:
                place.mkdir(exist_ok=True)
                _hold(held, place, fcntl.LOCK_SH)
            others = [card.parent for card in folder.glob(f"*/{_CARD}") if card.parent not in places]
            taken = sum(map(_bytes, others))
            for place in sorted(others, key=lambda other: (other / _CARD).stat().st_mtime):
                if taken + size > budget and _hold(held, place, fcntl.LOCK_EX):
                    taken -= _bytes(place)
                    shutil.rmtree(place)
        yield max(budget - taken, 0)


def _hold(held: ExitStack, place: Path, kind: int) -> bool:
    """Lock a store until the stack is left; returns whether that is possible."""
    file = held.enter_context((place / _USED).open("w"))
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _bytes(place: Path) -> int:
    frames = place / _FRAMES
    return frames.stat().st_size if frames.is_file() else 0


def bytes_needed(manifest: Source, source: FeatureSource, dtype: CacheType) -> int:
    """Return the most that the frames of a data directory take."""
    frames = np.ceil(np.asarray(manifest.durations) * source.sample_rate / source.stride).sum()
    return int(frames) * source.num_layers * source.dim * np.dtype(dtype).itemsize


def told_size(needed: int, budget_gb: float) -> str:
    """Return a line for the log. needed: bytes that all frames take at most."""
    return f"frames: {needed / 1e9:.3g} GB, budget {budget_gb:g} GB"


@dataclass(frozen=True)
class Undecoded(Wrapped):
    """A data directory of which recordings are not decoded once their frames are in the store: their waveforms have no samples.

    decoded: utterances of up to so many frames are decoded all the same, by whose samples a task tells whether they are too short for it.
    """

    store: FrameStore
    decoded: int = 0

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
        if self.store.frames(index) > self.decoded:
            return np.zeros(0, np.float32)
        return super().audio(index, sample_rate=sample_rate, start=start, seconds=seconds, allow_silent=allow_silent)
