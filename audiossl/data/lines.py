"""What single lines of a data directory's files must look like: shared by those who report faults and those who mend them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from audiossl.data import kaldi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MARK = b"\xef\xbb\xbf"


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
    """Yield every line of a file, the faulty ones too."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            parts = line.split(None, 1)
            fault = "" if parts else "an empty line"
            if number == 1 and line.startswith(_MARK):
                fault = "a byte order mark before the first id"
            try:
                key, value = [part.decode() for part in (*parts, b"", b"")[:2]]
            except UnicodeDecodeError as error:
                key, value, fault = "", "", f"not UTF-8 ({error.reason})"
            yield Line(number, offset, key.removeprefix("\ufeff"), value.rstrip(), fault)
            offset += len(line)


def value_fault(name: str, value: str) -> str:
    """What is wrong with a value of the table `name` by itself, "" if nothing; `wav.scp`, `spk2utt` and `units/` have checks of their own."""
    if name in {kaldi.WAV_SCP, kaldi.SPK2UTT} or name.startswith(kaldi.UNITS):
        return ""
    if name == kaldi.SEGMENTS:
        parsed = kaldi.parse_segment(value)
        if parsed is None:
            return f"{value!r} is not `recording start end`, in seconds"
        _, start, end, _ = parsed
        return "" if 0.0 <= start < end < math.inf else f"no segment lasts from {start:g} to {end:g} s"
    if name == kaldi.UTT2DUR:
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


def parse_phone(value: str) -> Phone | None:
    """Read `channel start duration phone [confidence]`, what follows the id in a line of `phones.ctm`; None if it is not that."""
    fields = value.split()
    if len(fields) not in {4, 5}:
        return None
    start, duration = kaldi.parse_seconds(fields[1]), kaldi.parse_seconds(fields[2])
    return Phone(start, duration, fields[3]) if 0.0 <= start < math.inf and 0.0 < duration < math.inf else None
