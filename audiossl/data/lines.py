"""What single lines of a data directory's files must look like: shared by those who report faults and those who mend them."""

from __future__ import annotations

import codecs
import math
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from audiossl.data import kaldi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEAD = 1 << 16
RECO2DUR = "reco2dur"
EMPTY_LINE = "an empty line"
CLIPPED = 0.5
"""Seconds by which a segment may pass the end of its recording and be cut there, as Kaldi does; one that passes it by more is wrong."""


@dataclass(frozen=True)
class Fault:
    """One fault of a data directory. line: from 1; 0 stands for the file as a whole."""

    path: Path
    line: int
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}; {self.cure}"


class Line(NamedTuple):
    """A line of a table; `fault` says why it cannot be read, "" if it can. number: from 1. offset: bytes."""

    number: int
    offset: int
    key: str
    value: str
    fault: str


class Phone(NamedTuple):
    """A line of `phones.ctm`: start and duration in seconds from the utterance's start."""

    start: float
    duration: float
    phone: str


def scan(path: Path) -> Iterator[Line]:
    """Yield every line of a file, the faulty ones too; a byte order mark is passed over, see `has_mark`."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                line = line.removeprefix(codecs.BOM_UTF8)
                offset = len(codecs.BOM_UTF8)
            parts = line.split(None, 1)
            fault = "" if parts else EMPTY_LINE
            try:
                key, value = [part.rstrip().decode() for part in (*parts, b"", b"")[:2]]
            except UnicodeDecodeError as error:
                key, value, fault = "", "", f"not UTF-8 ({error.reason})"
            if b"\0" in line:
                fault = "a NUL byte"
            elif "\r" in value:
                fault = "a carriage return within the line"
            yield Line(number, offset, key, value.rstrip(), fault)
            offset += len(line)


def has_mark(path: Path) -> bool:
    """Whether a file begins with the byte order mark of UTF-8."""
    with path.open("rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def says_otherwise(path: Path, offset: int, double: Line) -> bool:
    """Whether the line at `offset`, bytes, has another value than a second line of its key."""
    if path.name in {kaldi.SEGMENTS, kaldi.SPK2UTT, kaldi.UTT2DUR}:
        return False  # of these not the first is kept, but what the audio and other tables say
    with path.open("rb") as file:
        file.seek(offset)
        return kaldi.split_line(file.readline(), path, 0)[1] != double.value


def file_fault(path: Path, name: str) -> tuple[str, str] | None:
    """What is wrong with the table `name` as a whole, so that none of its lines can be used, and the cure that works; None if nothing."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    place = shlex.quote(str(path))
    convert = f"convert it: {{}} {place} > {place}.new && mv {place}.new {place}"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16, not UTF-8", convert.format("iconv -f UTF-16 -t UTF-8")
    if 0 in head[:2] and len(head) > 1 and head[:2] != b"\0\0":
        order = "LE" if head[1] == 0 else "BE"
        return "looks like UTF-16, not UTF-8", convert.format(f"iconv -f UTF-16{order} -t UTF-8")
    if b"\n" not in head and b"\r" in head.rstrip():
        return "its lines end in CR alone, not LF", convert.format("tr '\\r' '\\n' <")
    if not head.strip() and kaldi.keyed_by(name) == "utterance" and name != kaldi.UTT2DUR:
        again = "make it again with `audiossl units apply`" if name.startswith(kaldi.UNITS) else "restore it"
        return "an empty table", f"remove it, or {again}"
    return None


def absence(path: Path) -> str:
    """Say why `path` is no file: "missing", or what is there instead."""
    if path.is_dir():
        return "a folder, no table"
    return "a link to nothing" if path.is_symlink() else "missing"


def value_fault(name: str, value: str) -> str:
    """What is wrong with a value of the table `name` by itself, "" if nothing; `spk2utt`, `units/` and what `wav.scp` names have checks of their own."""
    if name == kaldi.SPK2UTT or name.startswith(kaldi.UNITS):
        return ""
    if name == kaldi.WAV_SCP:
        return "" if value else "no audio file is named"
    if name == kaldi.SEGMENTS:
        parsed = kaldi.parse_segment(value)
        if parsed is None:
            return f"{value!r} is not `recording start end`, in seconds"
        _, start, end, _ = parsed
        return "" if 0.0 <= start < end else f"no segment lasts from {start:g} to {end:g} s"
    if name in {kaldi.UTT2DUR, RECO2DUR}:
        return "" if 0.0 < kaldi.parse_seconds(value) < math.inf else f"{value!r} is not a duration above 0 s"
    if name == kaldi.UTT2SPK and len(value.split()) != 1:
        return f"{value!r} is not one speaker id"
    return "" if value else "nothing follows the id"


def parse_trial(key: str, value: str) -> tuple[str, str] | None:
    """Enrolment and test utterance of a line of `trials`: `enrol test target|nontarget` or `1|0 enrol test`; None if neither."""
    fields = value.split()
    if len(fields) != 2:
        return None
    if fields[1] in {"target", "nontarget"}:
        return key, fields[0]
    return (fields[0], fields[1]) if key in {"0", "1"} else None


def says_target(key: str, value: str) -> bool:
    """Whether a line that `parse_trial` can read says that both utterances are of one speaker."""
    label = value.split()[1]
    return label == "target" or (label != "nontarget" and key == "1")


def parse_phone(value: str) -> Phone | None:
    """Read `channel start duration phone [confidence]`, what follows the id in a line of `phones.ctm`; None if it is not that."""
    fields = value.split()
    if len(fields) not in {4, 5}:
        return None
    start, duration = kaldi.parse_seconds(fields[1]), kaldi.parse_seconds(fields[2])
    return Phone(start, duration, fields[3]) if 0.0 <= start < math.inf and 0.0 < duration < math.inf else None
