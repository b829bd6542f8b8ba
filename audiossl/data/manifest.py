"""A data directory as training sees it: ids, durations, audio and columns by utterance number, at bytes per utterance.

Nothing of the corpus is held: tables are memory-mapped (`index.py`), and an utterance's row in `segments`, `text` or
`units/km100` is looked up when it is asked for. Workers get the path and open it anew.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import AudioError, audio_info, decode_audio, decoded_info, read_audio
from audiossl.data.excerpts import file_excerpt, spread
from audiossl.data.index import UNKNOWN, Table, cached, signature
from audiossl.data.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEPT_OUTPUT = 64 * 2**20  # bytes


class Ids(Sequence[str]):
    """Utterance ids in C order, decoded from the table that lists the utterances when they are asked for."""

    def __init__(self, table: Table, rows: np.ndarray | None) -> None:
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._table.key(self.row(index))

    def __contains__(self, utterance: object) -> bool:
        if not isinstance(utterance, str):
            return False
        row = self._table.find(utterance)
        return row >= 0 and (self._rows is None or bool((self._rows == row).any()))

    def row(self, index: int) -> int:
        """Row of utterance `index` in the table that lists them."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return index if self._rows is None else int(self._rows[index])


class Column(Sequence[str]):
    """What one file of a data directory says of each utterance; `column[index]` is a str.

    ValueError names the file and a cure where an utterance has no line.
    """

    def __init__(self, path: Path, ids: Sequence[str], rows: np.ndarray | None = None) -> None:
        """rows: where each utterance probably stands in the file, None for the order of `ids`."""
        self.path = path
        self._ids, self._rows, self._table = ids, rows, Table(path)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._find(index)
        if row < 0:
            raise ValueError(
                f"{self.path}: no line for utterance {self._ids[index]!r}; add it or run `audiossl data fix` on the directory"
            )
        return self._table.row(row)[1]

    def has(self, index: int) -> bool:
        """Whether utterance `index` has a line."""
        return self._find(index) >= 0

    def _find(self, index: int) -> int:
        return self._table.find(self._ids[index], index if self._rows is None else int(self._rows[index]))


class _Outputs:
    """What programs of `wav.scp` put out last, 64 MiB of it and at least one: segments of a recording are asked for in a row.

    Threads that want the same recording wait for one run of its program.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[str, Future[bytes]] = {}  # by recording, the one asked for last at the end

    def get(self, recording: str, run: Callable[[], bytes]) -> bytes:
        """Return what the program of a recording puts out. run: starts it and waits; called where its output is not kept. Raises what `run` raises."""
        with self._lock:
            known = self._runs.pop(recording, None)
            future = self._runs[recording] = known or Future()
        if known is None:
            try:
                future.set_result(run())
            except BaseException as error:  # noqa: BLE001 - raised below, by every thread that waits for it
                future.set_exception(error)
            self._forget()
        return future.result()

    def _forget(self) -> None:
        """Drop failures, and the oldest of what is too much."""
        with self._lock:
            done = {name: run for name, run in self._runs.items() if run.done()}
            sizes = {name: len(run.result()) for name, run in done.items() if run.exception() is None}
            left = sum(sizes.values())
            for name in done:
                if name not in sizes or (left > _KEPT_OUTPUT and sizes[name] < left):
                    left -= sizes.get(name, 0)
                    del self._runs[name]


class TableColumns:
    """What both layouts of a data directory share: the tables with a line for each utterance, and parts of them.

    rows: of the utterances in the table that lists all, None for each its own.
    """

    _called = "this directory"

    def __init__(self, path: Path, table: Table, rows: np.ndarray | None) -> None:
        self.path, self._rows = path, rows
        self.ids = Ids(table, rows)

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Column:
        """What the file `name` says: `text`, `utt2spk`, any `utt2X`, `units/km100`; ValueError if it is not there."""
        path = self.path / name
        if kaldi.keyed_by(name) != "utterance" or not path.is_file():
            known = ", ".join(self.column_names()) or "none"
            raise ValueError(f"{path}: no such file; the columns of {self._called} are: {known}")
        return Column(path, self.ids, self._rows)

    def column_names(self) -> list[str]:
        """Names of all columns, sorted."""
        names = kaldi.table_names(self.path)
        return [name for name in names if kaldi.keyed_by(name) == "utterance" and name != kaldi.SEGMENTS]

    def _picked(self, indices: np.ndarray) -> np.ndarray:
        """Rows of the utterances `indices`; ValueError for one that there is not."""
        rows = np.asarray(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(
                f"{self.path}: utterances {rows.min()} to {rows.max()} of {len(self)}; correct the indices"
            )
        return rows if self._rows is None else self._rows[rows]


class Manifest(TableColumns):
    """The utterances of a data directory in C order of their ids: a `DataDirectory`.

    `segments` lists them if it is there, else `wav.scp`. path: the directory. ValueError for a directory that is none.
    """

    def __init__(self, path: Path, *, allow_commands: bool = False, rows: np.ndarray | None = None) -> None:
        self.allow_commands = allow_commands
        self._outputs = _Outputs()
        self._recordings = Table(path / kaldi.WAV_SCP)
        has_segments = (path / kaldi.SEGMENTS).is_file()
        self._segments = Table(path / kaldi.SEGMENTS) if has_segments else None
        super().__init__(path, self._recordings if self._segments is None else self._segments, rows)

    @classmethod
    def open(cls, path: Path | str, *, allow_commands: bool = False) -> Manifest:
        """Open a Kaldi data directory, or a folder of shards.

        allow_commands: run the programs (`cmd |`) that `wav.scp` names; refused otherwise, when such audio is asked for.
        """
        path = Path(path)
        if not (path / kaldi.WAV_SCP).is_file():
            if (path / "shards.json").is_file():
                from audiossl.data.shards import ShardManifest

                return cast("Manifest", ShardManifest.open(path))
            raise ValueError(f"{path}: no data directory: neither wav.scp nor shards.json is in it; {_cure(path)}")
        return cls(path, allow_commands=allow_commands)

    def __reduce__(self) -> tuple[Callable[..., Manifest], tuple[Any, ...]]:
        return _reopen, (type(self), self.path, self.allow_commands, self._rows)

    @cached_property
    def durations(self) -> np.ndarray:
        """(utterance,) float64, seconds: from `utt2dur`, else `segments`, else the recordings' headers, read once.

        Headers are read again where one of up to 100 evenly spread recordings has another size or time than it had.
        """
        sources = tuple(self.path / name for name in (kaldi.WAV_SCP, kaldi.SEGMENTS, kaldi.UTT2DUR))
        whole = self if self._rows is None else Manifest(self.path, allow_commands=self.allow_commands)
        recordings = () if sources[-1].is_file() else whole._recording_files()  # noqa: SLF001 - of this class
        # A recording that has gone since keeps its length.
        signed = signature(*sources) + signature(*recordings, absent=UNKNOWN)
        bits = cached(self.path, "durations", signed, lambda: _measure(whole).view(np.int64))
        durations = bits.view(np.float64)
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
        """Waveform of utterance `index`: (sample,) float32 mono at `sample_rate` Hz; AudioError names the file and cure.

        start, seconds: the piece that is decoded, all of it by default.
        """
        recording, first, duration, channel = self._place(index)
        start, duration = _piece(first, duration, start, seconds)
        entry = self._entry(index, recording)
        if kaldi.is_command(entry):
            output = self._output(recording, entry)
            return decode_audio(
                output,
                entry,
                start=start,
                duration=duration,
                sample_rate=sample_rate,
                channel=channel,
                allow_silent=allow_silent,
            )
        path = kaldi.audio_path(entry, self.path)
        return read_audio(
            path, start=start, duration=duration, sample_rate=sample_rate, channel=channel, allow_silent=allow_silent
        )

    def excerpt(self, index: int) -> bytes:
        """What tells the recording of utterance `index` from others, wherever it lies: see `file_excerpt`; of a program its text."""
        try:
            recording = self.recording(index)
        except AudioError:
            return b""
        row = self._recordings.find(recording, self.ids.row(index))
        entry = self._recordings.row(row)[1] if row >= 0 else ""
        return entry.encode() if kaldi.is_command(entry) else file_excerpt(kaldi.audio_path(entry, self.path))

    def _recording_files(self) -> Iterator[Path]:
        """Up to 100 evenly spread files of `wav.scp`."""
        entries = (self._recordings.row(row)[1] for row in spread(len(self._recordings)))
        return (kaldi.audio_path(entry, self.path) for entry in entries if not kaldi.is_command(entry))

    def subset(self, indices: np.ndarray) -> Manifest:
        """The utterances `indices` alone, in that order."""
        return Manifest(self.path, allow_commands=self.allow_commands, rows=self._picked(indices))

    def _place(self, index: int) -> tuple[str, float, float | None, int | None]:
        """Recording, start, duration (None: up to the end) and channel of an utterance."""
        row = self.ids.row(index)
        if self._segments is None:
            return self._recordings.key(row), 0.0, None, None
        parsed = kaldi.parse_segment(self._segments.row(row)[1])
        if parsed is None or not 0.0 <= parsed[1] < parsed[2]:
            self._malformed(self._segments, row, "not `recording start end` with end after start")
        recording, start, end, channel = parsed
        return recording, start, None if end == math.inf else end - start, channel

    def _entry(self, index: int, recording: str) -> str:
        row = self._recordings.find(recording, self.ids.row(index))
        if row < 0:
            raise AudioError(
                f"{self._recordings.path}: no recording {recording!r} for utterance {self.ids[index]!r}; "
                f"add it or run `audiossl data fix {self.path}`"
            )
        entry = self._recordings.row(row)[1]
        fault = kaldi.audio_fault(entry)
        if fault:
            self._malformed(self._recordings, row, fault[0], fault[1])
        if kaldi.is_command(entry) and not self.allow_commands:
            cure = f"give --allow-commands, or make shards of it with `audiossl data shard {self.path} NEW --allow-commands`"
            self._malformed(self._recordings, row, f"a program to run ({entry})", cure)
        return entry

    def _malformed(self, table: Table, row: int, what: str, cure: str = "") -> NoReturn:
        cure = cure or f"run `audiossl data fix {self.path}`"
        raise AudioError(f"{table.path}:{table.line(row)}: {table.key(row)!r}: {what}; {cure}")

    def _output(self, recording: str, command: str) -> bytes:
        return self._outputs.get(recording, lambda: self._run(recording, command))

    def _run(self, recording: str, command: str) -> bytes:
        # The user allowed the programs of this file by name; a shell is what Kaldi promises them.
        done = subprocess.run(command[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S602
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise AudioError(
                f"{self._recordings.path}: {recording!r}: `{command[:-1].strip()}` failed with status {done.returncode}"
                f"{f' ({said[-1]})' if said else ''}; correct the command"
            )
        return done.stdout

    def recording(self, index: int) -> str:
        """Id of the recording that utterance `index` is, or is a part of."""
        return self._place(index)[0]

    def header_duration(self, index: int) -> float:
        """Seconds of utterance `index` by its segment or, without segments, by its recording's header."""
        recording, start, duration, _ = self._place(index)
        if duration is not None:
            return duration
        entry = self._entry(index, recording)
        try:
            if kaldi.is_command(entry):
                whole = decoded_info(self._output(recording, entry), entry).duration
            else:
                whole = audio_info(kaldi.audio_path(entry, self.path)).duration
        except AudioError as error:
            raise AudioError(f"{error}, or run `audiossl data fix {self.path}`") from None
        if self._segments is not None and start >= whole:
            self._malformed(
                self._segments, self.ids.row(index), f"starts at {start:g} s, its recording ends at {whole:g} s"
            )
        return whole - start


def _piece(first: float, duration: float | None, start: float, seconds: float | None) -> tuple[float, float | None]:
    """Start and duration, in the recording, of a piece of an utterance that begins at `first` and lasts `duration` there."""
    left = None if duration is None else max(duration - start, 0.0)
    if seconds is not None:
        left = seconds if left is None else min(seconds, left)
    return first + start, left


def _measure(manifest: Manifest) -> np.ndarray:
    """Durations of all utterances of a directory: (utterance,) float64."""
    path = manifest.path / kaldi.UTT2DUR
    count = len(manifest)
    if path.is_file():
        return _listed_durations(path, manifest)
    if (manifest.path / kaldi.SEGMENTS).is_file():
        return np.fromiter(map(manifest.header_duration, range(count)), np.float64, count)
    measured = in_threads(manifest.header_duration, range(count), count, f"{manifest.path}: reading headers")
    return np.fromiter((duration for _, duration in measured), np.float64, count)


def _listed_durations(path: Path, manifest: Manifest) -> np.ndarray:
    column = Column(path, manifest.ids)
    durations = np.empty(len(manifest), np.float64)
    for index, value in enumerate(column):
        duration = kaldi.parse_seconds(value)
        if not 0.0 < duration < np.inf:
            raise ValueError(
                f"{path}: utterance {manifest.ids[index]!r} lasts {value!r}, not seconds above 0; "
                f"run `audiossl data fix {manifest.path}`"
            )
        durations[index] = duration
    return durations


def _cure(path: Path) -> str:
    """What to do about a path that is no data directory, by what is there instead."""
    parts = str(path).split(",")
    if len(parts) > 1 and all(map(os.path.isdir, parts)):
        return f"join several by `audiossl data combine NEW {shlex.join(parts)}`"
    if path.suffix == ".tsv" and path.is_file():
        return f"make one of fairseq's manifests by `audiossl prep fairseq_manifests --corpus {shlex.quote(str(path.parent))} --out NEW`"
    if not path.is_dir():
        return "give another path"
    within = sorted(str(one.parent) for name in (kaldi.WAV_SCP, "shards.json") for one in path.glob(f"*/{name}"))
    if within:
        return f"name one of those in it: {', '.join(within[:5])}{' ...' if within[5:] else ''}"
    return (
        f"make one of the recordings in it by `audiossl prep folder --corpus {shlex.quote(str(path))} --out NEW`, "
        "or, with its labels, of a corpus that `audiossl prep --list` names"
    )


def _reopen(cls: type[Manifest], path: Path, allow_commands: bool, rows: np.ndarray | None) -> Manifest:
    return cls(path, allow_commands=allow_commands, rows=rows)
