"""What of its recordings a task hears: at another level, without silence, none that are short, or in successive chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.audio import AudioError
from audiossl.data.directory import Wrapped
from audiossl.data.whole import one_epoch
from audiossl.diagnostics.pooled_cache import data_digest
from audiossl.files import locked, whole_file
from audiossl.superb.pieces import Each

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.directory import Source
    from audiossl.data.loader import LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource

CHUNK_START = "chunk_start"
"""Column that chunks have beside those of their utterances: seconds."""


@dataclass(frozen=True)
class Hearing:
    """Keys of `[task]` that say what a task hears; those that it does not have are as here.

    crop_seconds: training takes random crops of at most that. chunk_frames: recordings are cut into so many frames of the upstream, and what is left over; 0 is
    not at all. gain_db: put on recordings, which are then decoded whole also where a crop is wanted. trim_silence: see `data.trim`, after the gain. min_seconds:
    shorter recordings are left out of training, after that.
    """

    crop_seconds: float | None = None
    chunk_frames: int = 0
    gain_db: float = 0.0
    trim_silence: bool = False
    min_seconds: float = 0.0

    @classmethod
    def of(cls, task_config: Any) -> Hearing:
        """Return what the configuration of a task says."""
        keys = [item.name for item in fields(cls)]
        return cls(**{key: getattr(task_config, key) for key in keys if hasattr(task_config, key)})

    @property
    def changes_audio(self) -> bool:
        """Whether recordings are not heard as they are."""
        return bool(self.gain_db or self.trim_silence)

    def __call__(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """(sample,) float32, at its level and without silence."""
        from audiossl.data.trim import trim_silence

        louder: np.ndarray = (10.0 ** (self.gain_db / 20.0) * waveform).astype(np.float32)
        return trim_silence(louder, sample_rate) if self.trim_silence else louder

    def digest(self, of: str) -> str:
        """Digest of features that had the digest `of` before."""
        told = f"{of} {self.gain_db} dB, {'without' if self.trim_silence else 'with'} silence"
        return hashlib.sha256(told.encode()).hexdigest() if self.changes_audio else of


def louder(source: FeatureSource, gain_db: float) -> FeatureSource:
    """Return the features of the same waveforms at another level."""
    if not gain_db:
        return source
    factor = 10.0 ** (gain_db / 20.0)
    digest = hashlib.sha256(f"{source.digest} {gain_db} dB".encode()).hexdigest()
    return replace(source, digest=digest, extract=lambda waveform, lengths: source.extract(factor * waveform, lengths))


@dataclass(frozen=True)
class Heard(Wrapped):
    """A data directory as a task hears it. left: (utterance,) seconds, of what is left."""

    hearing: Hearing
    left: np.ndarray

    @property
    def durations(self) -> np.ndarray:
        """(utterance,) seconds, of what is left."""
        return self.left

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """(sample,) float32; `start` and `seconds` are of what is left. AudioError where nothing is."""
        whole = self.source.audio(index, sample_rate=sample_rate, allow_silent=allow_silent)
        whole = self.hearing(whole, sample_rate)
        if not len(whole):
            raise AudioError(f"{self.ids[index]}: nothing is left of it without its silence; leave it out")
        first = round(start * sample_rate)
        return whole[first:] if seconds is None else whole[first : first + round(seconds * sample_rate)]


def seconds_left(
    manifest: Manifest, hearing: Hearing, *, sample_rate: int, folder: Path, loading: LoaderConfig
) -> np.ndarray:
    """Measure what is left of every recording without its silence: (utterance,) seconds, from one pass over the audio that is kept in `folder`.

    Of recordings that cannot be read, it is what the data directory says.
    """
    told = hashlib.sha256(f"{data_digest(manifest)} {hearing.digest('')} {sample_rate}".encode()).hexdigest()
    path = folder / f"seconds-{manifest.path.name}-{told[:16]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if path.is_file():
            kept: np.ndarray = np.load(path, allow_pickle=False)
            return kept
        row = {name: index for index, name in enumerate(manifest.ids)}
        found = np.array(manifest.durations, dtype=np.float64)
        label = f"silence of {manifest.path.name}"
        for batch in one_epoch(manifest, _Lengths(hearing), loading, sample_rate=sample_rate, label=label):
            if batch["utt_ids"]:
                rows = [row[name] for name in batch["utt_ids"]]
                found[rows] = np.maximum(batch["samples"].numpy(), 1) / sample_rate
        with whole_file(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, found)
    return found


@dataclass(frozen=True)
class _Lengths:
    """Views for the loader: how many samples are left."""

    hearing: Hearing
    needs: tuple[str, ...] = ()

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - the loader's contract
        return {"samples": len(self.hearing(utterance.waveform, utterance.sample_rate))}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        return batch


@dataclass(frozen=True)
class Chunks(Wrapped):
    """Successive pieces of utterances in the place of the utterances.

    owners: (chunk,) utterance. firsts, counts: (chunk,) frames, of `rate` per second. What is left of an utterance beyond whole frames is not heard.
    """

    rate: float
    owners: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray

    @classmethod
    def cut(cls, source: Source, frames: int, *, rate: float, least: int) -> Chunks:
        """Cut every utterance into chunks of `frames`; a rest of fewer than `least`, too short for the upstream, stays with the chunk before it."""
        totals = np.maximum((np.asarray(source.durations) * rate + 1e-6).astype(np.int64), 1)
        chunks = np.maximum(-(-totals // frames), 1)
        chunks -= (chunks > 1) & (totals - (chunks - 1) * frames < least)
        owners = np.repeat(np.arange(len(totals)), chunks)
        numbers = np.arange(len(owners)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        firsts = numbers * frames
        counts = np.where(numbers == chunks[owners] - 1, totals[owners] - firsts, frames)
        return cls(source, rate, owners, firsts, counts)

    @property
    def durations(self) -> np.ndarray:
        """(chunk,) seconds."""
        seconds: np.ndarray = self.counts / self.rate
        return seconds

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the utterances with the first frame."""
        return Each(len(self.owners), self._id)

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = True,
    ) -> np.ndarray:
        """(sample,) float32, of the chunk; a chunk may be silent."""
        del allow_silent
        left = float(self.counts[index]) / self.rate - start
        return self.source.audio(
            int(self.owners[index]), sample_rate=sample_rate, start=float(self.firsts[index]) / self.rate + start,
            seconds=left if seconds is None else min(seconds, left), allow_silent=True,
        )  # fmt: skip

    def column(self, name: str) -> Sequence[str]:
        """One value for each chunk: that of its utterance, or where it begins."""
        if name == CHUNK_START:
            return Each(len(self), self._start)
        return Each(len(self), partial(self._value, self.source.column(name)))

    def joined(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Put together what was said of the frames of chunks: (frame, ...) by utterance, of those of which no chunk is missing.

        A chunk of which the upstream gave too few frames has its last answer again, what it gave too many is left out.
        """
        ids, names = self.ids, self.source.ids
        parts: dict[int, list[np.ndarray]] = {}
        for index, owner in enumerate(self.owners.tolist()):
            said = predictions.get(ids[index])
            if said is not None:
                frame = np.minimum(np.arange(self.counts[index]), len(said) - 1)
                parts.setdefault(owner, []).append(said[frame])
        wanted = np.bincount(self.owners)
        return {names[owner]: np.concatenate(found) for owner, found in parts.items() if len(found) == wanted[owner]}

    def _id(self, index: int) -> str:
        return f"{self.source.ids[int(self.owners[index])]}@{self.firsts[index]}"

    def _start(self, index: int) -> str:
        return repr(float(self.firsts[index]) / self.rate)

    def _value(self, column: Sequence[str], index: int) -> str:
        return column[int(self.owners[index])]
