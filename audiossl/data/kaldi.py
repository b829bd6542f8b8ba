"""The files of a Kaldi data directory: how their lines are read and written, what keys them, what a recording's entry means.

A table is a text file of `key value` lines in UTF-8, sorted by key in C (byte) order; for code points that is Python's own
order. Readers take tabs for spaces and CRLF for LF; writers write one space and LF. Only ASCII white space separates a key
from its value, so a text in any script passes unchanged.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from audiossl.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WAV_SCP, SEGMENTS = "wav.scp", "segments"
UTT2SPK, SPK2UTT, UTT2DUR, TEXT = "utt2spk", "spk2utt", "utt2dur", "text"
TRIALS, PHONES_CTM, UNITS = "trials", "phones.ctm", "units"

_ARK = re.compile(r"\.ark:\d+(\[.*\])?$")
_BAD_KEY = re.compile(r"[\x00-\x20\x7f]")


def keyed_by(name: str) -> str | None:
    """What the keys of the table `name` are: "utterance", "recording", "speaker", or None where it is no such table."""
    if name == WAV_SCP or name.startswith("reco2"):
        return "recording"
    if name.startswith("spk2"):
        return "speaker"
    folder, _, last = name.rpartition("/")
    if folder == UNITS or (not folder and (name in {SEGMENTS, TEXT} or name.startswith("utt2"))):
        return None if last.endswith((".json", ".partial")) else "utterance"
    return None


def table_names(directory: Path) -> list[str]:
    """Names of all tables of a data directory, sorted: `wav.scp`, `text`, `units/km100` ..."""
    found = [path.name for path in directory.iterdir() if path.is_file()]
    if (directory / UNITS).is_dir():
        found += [f"{UNITS}/{path.name}" for path in (directory / UNITS).iterdir() if path.is_file()]
    return sorted(name for name in found if keyed_by(name) is not None and not name.endswith(".partial"))


def read_table(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number from 1, key, value) of each line; a lone key has the value "".

    ValueError names file and line of an empty line and of one that is not UTF-8.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the data directory") from None
    with file:
        for number, line in enumerate(file, start=1):
            key, value = split_line(line, path, number)
            yield number, key, value


def split_line(line: bytes, path: Path, number: int) -> tuple[str, str]:
    """Split one line of a table into key and value, a byte order mark of the first left out; ValueError names `path` and `number` if it cannot be."""
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    parts = line.split(None, 1)
    if not parts:
        raise ValueError(f"{path}:{number}: an empty line; run `audiossl data fix {path.parent}`")
    try:
        return parts[0].decode(), parts[1].rstrip().decode() if len(parts) == 2 else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file with iconv") from None


def write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write (key, value) rows sorted by key in C order, rows of one key in the order given; atomic."""
    write_sorted_table(path, sorted(rows, key=lambda row: row[0]))


def write_sorted_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Like `write_table` for rows that come sorted by key: holds one at a time."""
    last = ""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for key, value in rows:
            assert key >= last, f"{path}: {key!r} after {last!r}"
            check_row(path, key, value)
            file.write(f"{key} {value}\n" if value else f"{key}\n")
            last = key


def check_row(path: Path, key: str, value: str) -> None:
    """Raise ValueError for a key or a value that no line of a table can hold."""
    if not key or _BAD_KEY.search(key):
        raise ValueError(f"{path}: the id {key!r} is empty or has white space; choose ids without it")
    if "\n" in value or "\r" in value:
        raise ValueError(f"{path}: the value of {key!r} has a line break; write it in one line")
    try:
        value.isascii() or value.encode()
        key.isascii() or key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: {key!r} cannot be written as UTF-8 ({error.reason}); repair its text") from None


def file_stem(key: str) -> str:
    """A key as the name of a file without its suffix: `/` and `%` become `%2F` and `%25`, so that no two keys share a name."""
    return key.replace("%", "%25").replace("/", "%2F")


def is_command(entry: str) -> bool:
    """Whether an entry of `wav.scp` is a program to run, `cmd |`."""
    return entry.endswith("|")


def audio_fault(entry: str) -> tuple[str, str] | None:
    """What is wrong with an entry of `wav.scp` whatever the disk holds, and the cure; None if nothing."""
    if not entry:
        return "no audio file is named", "write `recording path`"
    if _ARK.search(entry):
        return f"{entry!r} points into an ark archive", "extract it to audio files with Kaldi's wav-copy"
    return None


def audio_path(entry: str, directory: Path) -> Path:
    """The file that an entry of `wav.scp` names: a relative one from the current directory, as in Kaldi.

    If it is not there, from the data directory, so that a directory can travel together with its audio.
    """
    path = Path(entry)
    # Not Path.exists, which raises for a name that is too long.
    if path.is_absolute() or os.path.exists(path):  # noqa: PTH110
        return path
    beside = directory / path
    return beside if os.path.exists(beside) else path  # noqa: PTH110


def parse_segment(value: str) -> tuple[str, float, float, int | None] | None:
    """(recording, start, end, channel) of a `segments` value, seconds; the channel is optional. None if malformed.

    An end of -1 stands for that of the recording and becomes infinity.
    """
    fields = value.split()
    try:
        recording, start, end, channel = fields[0], float(fields[1]), float(fields[2]), [int(c) for c in fields[3:]]
    except (IndexError, ValueError):
        return None
    if end == math.inf or len(channel) > 1:
        return None
    return recording, start, math.inf if end == -1.0 else end, channel[0] if channel else None


def parse_seconds(value: str) -> float:
    """A number of seconds, NaN for what is none."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def seconds(value: float) -> str:
    """Write seconds to the microsecond, without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
