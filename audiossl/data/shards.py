"""Tar shards: a corpus in a few large files, for file systems that suffer from many small ones.

The shards follow WebDataset: `<key>.flac` and `<key>.json` side by side, key the utterance id with `.` `/` `%` written as `%2E`
`%2F` `%25`, since WebDataset ends a key at its first dot. Beside them lie `shards.json`, `index.npy` with the place of every
recording, so that any utterance is one read at a known offset, and the columns as plain Kaldi tables, `units/` among them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import AudioError, decode_audio
from audiossl.data.excerpts import file_excerpt
from audiossl.data.index import Table
from audiossl.data.manifest import Column, Manifest, TableColumns
from audiossl.data.progress import progress
from audiossl.data.writer import new_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audiossl.data.directory import DataDirectory

_INDEX = np.dtype([("offset", "<i8"), ("size", "<i8"), ("duration", "<f8"), ("shard", "<i4")])
_DESCRIPTION, _INDEX_FILE = "shards.json", "index.npy"
_RECORDINGS = "recordings"  # table of the recording of each utterance, where that is not its own
_FORMATS = {"flac": "FLAC", "wav": "WAV"}
_BLOCK = 64  # utterances that are decoded and encoded at a time, by threads
_OPEN_SHARE = 4  # of the files that a process may open, each folder of shards may hold one part in so many
_ESCAPES = str.maketrans({"%": "%25", ".": "%2E", "/": "%2F"})


def write_shards(
    manifest: Manifest, out: Path, *, max_bytes: int = 1 << 30, audio_format: str = "flac", sample_rate: int = 16_000
) -> None:
    """Write the utterances of a manifest as shards of at most `max_bytes`, 16-bit mono at `sample_rate`, in the new folder `out`.

    An utterance that is larger gets a shard of its own. audio_format: "flac" or "wav". A run that is killed leaves no `out`. Equal input gives equal bytes. ValueError if `out` is
    there already, ids are not in C order or a recording cannot be used.
    """
    if audio_format not in _FORMATS:
        raise ValueError(f"audio_format is {audio_format!r}; give one of {', '.join(_FORMATS)}")
    if max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}; give a positive number of bytes")
    for before, after in pairwise(manifest.ids):
        if before >= after:
            raise ValueError(
                f"{manifest.path}: {after!r} comes after {before!r}; give the utterances in C order, once each"
            )
    with new_directory(out) as partial:
        (partial / kaldi.UNITS).mkdir()
        index, shards = _write_tars(manifest, partial, max_bytes, audio_format, sample_rate)
        np.save(partial / _INDEX_FILE, index)
        durations = (kaldi.seconds(float(duration)) for duration in index["duration"])
        kaldi.write_sorted_table(partial / kaldi.UTT2DUR, zip(manifest.ids, durations, strict=True))
        _write_tables(manifest, partial)
        description = {
            "audio_format": audio_format,
            "sample_rate": sample_rate,
            "num_utterances": len(index),
            "shards": shards,
            "recordings": _write_recordings(manifest, partial),
        }
        (partial / _DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


class ShardManifest(TableColumns):
    """A folder of shards, a `DataDirectory` as `Manifest` is; pickles as its path.

    ValueError for a folder that is none, or whose index does not fit its tables.
    """

    _called = "these shards"
    allow_commands = False  # shards hold what programs put out when they were written

    def __init__(self, path: Path, rows: np.ndarray | None = None) -> None:
        try:
            description = json.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
            self._shards: list[str] = description["shards"]
            self._suffix: str = description["audio_format"]
            self._with_recordings: bool | None = description.get("recordings")
            self._index = np.load(path / _INDEX_FILE, mmap_mode="r", allow_pickle=False)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: no whole folder of shards ({error}); write the shards again") from error
        table = Table(path / kaldi.UTT2DUR)
        if self._index.dtype != _INDEX or len(self._index) != len(table):
            raise ValueError(f"{path / _INDEX_FILE}: does not fit {kaldi.UTT2DUR}; write the shards again")
        super().__init__(path, table, rows)
        self._files = _Files([path / name for name in self._shards])

    @classmethod
    def open(cls, path: Path | str) -> ShardManifest:
        """Open a folder that `write_shards` wrote."""
        return cls(Path(path))

    def __reduce__(self) -> tuple[Callable[..., ShardManifest], tuple[Any, ...]]:
        return type(self), (self.path, self._rows)

    @cached_property
    def durations(self) -> np.ndarray:
        """(utterance,) float64, seconds."""
        # A field of the index keeps its stride and would be copied by most users: once is enough.
        durations = np.ascontiguousarray(self._index["duration"])
        return durations if self._rows is None else durations[self._rows]

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """Waveform of utterance `index`: (sample,) float32 mono at `sample_rate` Hz; AudioError names shard and cure.

        start, seconds: the piece that is decoded, all of it by default.
        """
        utterance = self.ids[index]
        offset, size, _, shard = self._index[self.ids.row(index)].item()
        name = f"{self.path / self._shards[shard]}:{utterance}.{self._suffix}"
        encoded = self._files.read(shard, offset, size, name)
        return decode_audio(
            encoded, name, start=start, duration=seconds, sample_rate=sample_rate, allow_silent=allow_silent
        )

    def excerpt(self, index: int) -> bytes:
        """What tells the audio of utterance `index` from others, wherever the shard lies: see `file_excerpt`."""
        offset, size, _, shard = self._index[self.ids.row(index)].item()
        return file_excerpt(self.path / self._shards[shard], offset, size)

    def recording(self, index: int) -> str:
        """Id of the recording that utterance `index` is, or was a part of; ValueError for shards that do not say."""
        if self._with_recordings is None:
            raise ValueError(
                f"{self.path}: an older folder of shards, which does not say of which recording an utterance is; "
                "write the shards again with `audiossl data shard`"
            )
        return self._recordings[index] if self._with_recordings else self.ids[index]

    @cached_property
    def _recordings(self) -> Column:
        return Column(self.path / _RECORDINGS, self.ids)

    def header_duration(self, index: int) -> float:
        """Seconds of utterance `index`, which were counted when it was written."""
        return float(self.durations[index])

    def subset(self, indices: np.ndarray) -> ShardManifest:
        """The utterances `indices` alone, in that order."""
        return ShardManifest(self.path, self._picked(indices))


class _Files:
    """Reads parts of files, in any number of threads, and keeps those of the last reads open: opening one on a parallel file system takes longer than reading it."""

    def __init__(self, paths: list[Path]) -> None:
        import resource

        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = len(paths) if allowed == resource.RLIM_INFINITY else max(1, allowed // _OPEN_SHARE)

    def read(self, number: int, offset: int, size: int, name: str) -> bytes:
        """Return `size` bytes from `offset` of file `number`; AudioError calls what was wanted `name`."""
        path = self._paths[number]
        try:
            with self._lock:
                descriptor = os.dup(self._descriptor(number))  # another thread may close the kept one
            try:
                # Positioned reads, because forked workers share the descriptor and its position.
                content = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AudioError(f"{name}: {path.name} cannot be read ({error.strerror}); restore the shard") from error
        if len(content) < size:
            raise AudioError(f"{name}: {path.name} ends before byte {offset + size}; restore the shard")
        return content

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self._paths[number], os.O_RDONLY)
            if len(self._open) > self._most:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(number)
        return self._open[number]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def _write_tars(
    manifest: Manifest, folder: Path, max_bytes: int, audio_format: str, sample_rate: int
) -> tuple[np.ndarray, list[str]]:
    """Write the shards; return the index and the shards' names."""
    index = np.zeros(len(manifest), dtype=_INDEX)
    shards: list[str] = []
    tar: tarfile.TarFile | None = None
    try:
        utterances = _encoded(manifest, audio_format, sample_rate)
        for i, (encoded, facts) in enumerate(progress(utterances, len(manifest), f"{folder}: writing shards")):
            described = json.dumps(facts, ensure_ascii=False).encode()
            # Two members of one header and some padding each, and the two blocks and padding that end a tar.
            if tar is None or tar.offset + len(encoded) + len(described) + 4 * 1024 + tarfile.RECORDSIZE > max_bytes:
                if tar is not None:
                    tar.close()
                shards.append(f"shard-{len(shards):06d}.tar")
                tar = tarfile.open(folder / shards[-1], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            key = facts["id"].translate(_ESCAPES)
            index[i] = _add(tar, f"{key}.{audio_format}", encoded), len(encoded), facts["duration"], len(shards) - 1
            _add(tar, f"{key}.json", described)
    finally:
        if tar is not None:
            tar.close()
    return index, shards


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member and return the offset of its content."""
    member = tarfile.TarInfo(name)  # time and owner 0: equal input gives equal bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _encoded(manifest: Manifest, audio_format: str, sample_rate: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each utterance's encoded audio and what the columns other than units say of it."""
    columns = {
        name: manifest.column(name)
        for name in manifest.column_names()
        if not name.startswith(kaldi.UNITS) and name != kaldi.UTT2DUR
    }

    def encode(index: int) -> tuple[bytes, dict[str, Any]]:
        waveform = manifest.audio(index, sample_rate=sample_rate)
        facts: dict[str, Any] = {"id": manifest.ids[index], "duration": len(waveform) / sample_rate}
        for name, column in columns.items():
            if column.has(index):
                facts["speaker" if name == kaldi.UTT2SPK else name] = column[index]
        return _encode(waveform, audio_format, sample_rate), facts

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(manifest), _BLOCK):
            yield from pool.map(encode, range(start, min(start + _BLOCK, len(manifest))))


def _encode(waveform: np.ndarray, audio_format: str, sample_rate: int) -> bytes:
    import soundfile

    # Times 32768 and not 32767, so that what was 16 bits before is the same after.
    samples = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
    content = io.BytesIO()
    soundfile.write(content, samples, sample_rate, format=_FORMATS[audio_format], subtype="PCM_16")
    return content.getvalue()


def _write_recordings(manifest: Manifest, folder: Path) -> bool:
    """Write of which recording each utterance is a part; False, and no table, where each is its own."""
    recordings = map(manifest.recording, range(len(manifest)))
    if all(recording == utterance for recording, utterance in zip(recordings, manifest.ids, strict=True)):
        return False
    rows = ((utterance, manifest.recording(i)) for i, utterance in enumerate(manifest.ids))
    kaldi.write_sorted_table(folder / _RECORDINGS, rows)
    return True


def _write_tables(manifest: Manifest, folder: Path) -> None:
    """Write the columns of the manifest's utterances; alignments, trials and unit descriptions are copied as they are."""
    for name in manifest.column_names():
        if name == kaldi.UTT2DUR:
            continue
        column = manifest.column(name)
        rows = ((manifest.ids[i], column[i]) for i in range(len(manifest)) if column.has(i))
        kaldi.write_sorted_table(folder / name, rows)
        if (manifest.path / f"{name}.json").is_file():
            shutil.copyfile(manifest.path / f"{name}.json", folder / f"{name}.json")
    for name in (kaldi.PHONES_CTM, kaldi.TRIALS):
        if (manifest.path / name).is_file():
            shutil.copyfile(manifest.path / name, folder / name)


if TYPE_CHECKING:
    _LAYOUTS: tuple[type[DataDirectory], ...] = (Manifest, ShardManifest)
