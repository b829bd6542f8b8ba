"""What the corpora in `data_prep/` share: looking for a published layout and its numbers, ids, recordings that do not open, those for imitations."""

from __future__ import annotations

import codecs
import logging
import re
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import AudioError, audio_info, write_audio
from audiossl.data.loader import BadRecordings
from audiossl.data.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from audiossl.data.writer import CorpusUtterance

T = TypeVar("T")

_log = logging.getLogger(__name__)
_COUNTED = {"utterances": kaldi.UTT2SPK, "speakers": kaldi.SPK2UTT, "recordings": kaldi.WAV_SCP}
_NOT_IN_IDS = re.compile(r"[\s\x00-\x20\x7f]+")


def published(corpus: Path | None, *members: str) -> Path:
    """Return the absolute path of a corpus after checking that it holds the files and folders `members`."""
    wanted = ", ".join(members) or "the recordings"
    if corpus is None:
        raise ValueError(f"this corpus must be there already; give --corpus DIR, the folder that holds {wanted}")
    if corpus.is_file():
        raise ValueError(f"{corpus}: is a file; give its folder, which holds {wanted}")
    if not corpus.is_dir():
        raise ValueError(f"{corpus}: no such folder; --corpus must be the folder that holds {wanted}")
    for member in members:
        if not (corpus / member).exists():
            raise ValueError(f"{corpus / member}: not found; --corpus must be the folder that holds {wanted}")
    return corpus.absolute()


def listed(folder: Path, *patterns: str) -> list[Path]:
    """Return what in a folder matches one of the patterns, sorted, without hidden files such as `._a.wav`, which macOS leaves beside `a.wav`."""
    return sorted(
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file of a corpus without their ends; a byte order mark is left out. ValueError names the line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file with iconv") from None
            yield text.rstrip("\r\n")


def compare_numbers(corpus: Path, out: Path, numbers: Mapping[str, int], kind: str = "utterances") -> None:
    """Say in one line which data directories hold more or less than was published; those that were not written are passed over.

    numbers: data directory under `out` -> how many there should be. kind: of what, "utterances", "speakers" or "recordings".
    """
    found = {name: _rows(out / name / _COUNTED[kind]) for name in numbers if (out / name).is_dir()}
    unlike = [f"{name} {count:,} of {numbers[name]:,}" for name, count in found.items() if count != numbers[name]]
    if unlike:
        _log.warning(
            "%s: not as many %s as published: %s; give all of it and nothing else, unless this is meant",
            corpus,
            kind,
            ", ".join(unlike),
        )


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def identifier(text: str) -> str:
    """Turn a name or a relative path into an id: `/` becomes `-`, white space `_`."""
    return _NOT_IN_IDS.sub("_", text.strip()).replace("/", "-")


def check_fraction(max_bad_fraction: float) -> None:
    """Raise ValueError for a `prep.max_bad_fraction` that is none."""
    if not 0.0 <= max_bad_fraction <= 1.0:
        raise ValueError(f"prep.max_bad_fraction: {max_bad_fraction} is no fraction; give 0 to 1")


def without_bad(
    rows: Iterable[T], fault: Callable[[T], str], place: Callable[[T], str], total: int, label: str, max_bad: float
) -> Iterator[T]:
    """Yield the rows of which `fault` says "", in order; the others are named by `place` and left out.

    fault: may wait for the disk. ValueError as soon as more than the share `max_bad` of `total` is left out.
    """
    bad = BadRecordings(max_bad, total)
    for row, wrong in in_threads(fault, rows, total, label):
        if not wrong:
            yield row
            continue
        for line in bad.add([(place(row), wrong)]):
            _log.warning(line)


def that_open(utterances: Sequence[CorpusUtterance], label: str, max_bad: float) -> Iterator[CorpusUtterance]:
    """Yield the utterances whose recording has a sound header; the others as `without_bad` does."""
    total = len(utterances)
    return without_bad(utterances, lambda row: header_fault(row.path), lambda row: row.id, total, label, max_bad)


def header_fault(path: Path) -> str:
    """What is wrong with a recording by its header, "" if nothing."""
    try:
        audio_info(path)
    except AudioError as error:
        return str(error)
    return ""


def write_imitation(path: Path, rng: np.random.Generator, *, duration: float, sample_rate: int) -> None:
    """Write a recording for a corpus' `fake`: pieces of 40 ms, hum or hiss of random pitch and level; folders made as needed.

    It changes as speech does, so that units of it differ.
    """
    time = np.arange(round(duration * sample_rate)) / sample_rate
    piece = (time / 0.04).astype(np.int64)
    pitch, level, hiss = (
        rng.uniform(low, high, piece[-1] + 1)[piece] for low, high in ((100, 3000), (0.05, 0.4), (0, 1))
    )
    hum = np.sin(2.0 * np.pi * pitch * time)
    noise = rng.normal(0.0, 0.4, len(time))
    waveform = np.clip(level * np.where(hiss < 0.3, noise, hum) + 0.01 * noise, -1.0, 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, waveform, sample_rate)
