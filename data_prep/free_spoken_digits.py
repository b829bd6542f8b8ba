"""Free Spoken Digit Dataset: ten English digits, six speakers, fifty takes, and strings of 3 to 7 digits made from them.

Layout: `recordings/<digit>_<speaker>_<take>.wav` (or `.flac`), 8 kHz, trimmed; 3,000 files, 0.4 h. Licence: CC BY-SA 4.0.
Source: Jackson et al., "Free Spoken Digit Dataset", v1.0.10, 2020, github.com/Jakobovski/free-spoken-digit-dataset; its readme
declares takes 0 to 4 the test split. The takes after them become dev, all others train: speakers are shared, recordings are not.

Writes `train`, `dev`, `test` (single digits: `text`, `utt2digit`) and `train_strings`, `dev_strings`, `test_strings`: recordings of
one speaker in random order, pauses before, between and after them, `text` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.corpus import listed, published, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_NAME = re.compile(r"([0-9])_([A-Za-z]+)_([0-9]+)")
_SPLITS = ("train", "dev", "test")
_SAMPLE_RATE = 8000
_SHORTEST, _LONGEST = 3, 7  # digits in a string
_PAUSE_NOISE = 1e-4  # standard deviation, -80 dB full scale: pauses are quiet, not digital silence


@dataclass(frozen=True)
class Config:
    """Strings are a function of `seed`; each recording comes `passes` times in train's, once in the others'.

    test_takes: takes below it are test, as published; dev_takes: the next so many are dev. pause: shortest and longest, seconds.
    """

    seed: int = 0
    test_takes: int = 5
    dev_takes: int = 5
    passes: int = 3
    pause: tuple[float, float] = (0.05, 0.4)

    def __post_init__(self) -> None:
        if not 0.0 <= self.pause[0] <= self.pause[1]:
            raise ValueError(f"prep.pause: {list(self.pause)} is not [shortest, longest] in seconds")
        if min(self.test_takes, self.dev_takes, self.passes) < 1:
            raise ValueError(f"prep: test_takes, dev_takes and passes must be at least 1, not {self}")


class _Recording(NamedTuple):
    digit: int
    speaker: str
    take: int
    path: Path


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the six data directories under `out`, and the strings' FLAC files under `out/audio`."""
    config = config or Config()
    splits: dict[str, list[_Recording]] = {name: [] for name in _SPLITS}
    for recording in _recordings(published(corpus, "recordings")):
        splits[_split(recording.take, config)].append(recording)
    for number, (name, recordings) in enumerate(splits.items()):
        if not recordings:
            raise ValueError(f"{corpus}: no recording is in {name}; lower --prep.test_takes or --prep.dev_takes")
        write_data_dir(map(_single, recordings), out / name)
        rng = np.random.default_rng((config.seed, number))
        passes = config.passes if name == "train" else 1
        strings = _strings(recordings, out / "audio" / f"{name}_strings", passes, config.pause, rng)
        write_data_dir(strings, out / f"{name}_strings")


def fake(root: Path) -> None:
    """Write a tiny imitation: two speakers, takes 0 to 11."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        for digit in range(10):
            for take in range(12):
                path = root / "recordings" / f"{digit}_{speaker}_{take}.wav"
                write_imitation(path, rng, duration=0.1 + 0.01 * digit, sample_rate=_SAMPLE_RATE)


def _recordings(corpus: Path) -> list[_Recording]:
    folder = corpus / "recordings"
    found = []
    for path in listed(folder, "*"):
        if path.suffix not in {".wav", ".flac"}:
            continue
        match = _NAME.fullmatch(path.stem)
        if match is None:
            raise ValueError(f"{path}: not named <digit>_<speaker>_<take>; rename it or take it out of {folder}")
        found.append(_Recording(int(match[1]), match[2], int(match[3]), path))
    if not found:
        raise ValueError(f"{folder}: no <digit>_<speaker>_<take>.wav or .flac; --corpus must be the dataset's folder")
    return sorted(found, key=lambda item: (item.speaker, item.digit, item.take))


def _split(take: int, config: Config) -> str:
    if take < config.test_takes:
        return "test"
    return "dev" if take < config.test_takes + config.dev_takes else "train"


def _single(recording: _Recording) -> CorpusUtterance:
    name = f"{recording.speaker}-{recording.digit}-{recording.take:02d}"
    columns = {"text": _WORDS[recording.digit], "utt2digit": str(recording.digit)}
    return CorpusUtterance(name, name, recording.path, recording.speaker, columns=columns)


def _strings(
    recordings: list[_Recording], folder: Path, passes: int, pause: tuple[float, float], rng: np.random.Generator
) -> Iterator[CorpusUtterance]:
    """Each pass takes each recording of a speaker once, in a new order."""
    folder.mkdir(parents=True)
    for speaker in sorted({recording.speaker for recording in recordings}):
        own = [recording for recording in recordings if recording.speaker == speaker]
        number = 0
        for _ in range(passes):
            order = [own[index] for index in rng.permutation(len(own))]
            for length in _lengths(len(own), rng):
                chosen, order = order[:length], order[length:]
                name = f"{speaker}-string-{number:04d}"
                path = folder / f"{name}.flac"
                write_audio(path, _joined(chosen, pause, rng), _SAMPLE_RATE)
                text = " ".join(_WORDS[recording.digit] for recording in chosen)
                yield CorpusUtterance(name, name, path, speaker, columns={"text": text})
                number += 1


def _lengths(total: int, rng: np.random.Generator) -> Iterator[int]:
    """Cut `total` recordings into strings of 3 to 7; only fewer than three recordings make a shorter one."""
    while total:
        fitting = [n for n in range(_SHORTEST, _LONGEST + 1) if total == n or total - n >= _SHORTEST]
        length = int(rng.choice(fitting)) if fitting else total
        yield length
        total -= length


def _joined(recordings: list[_Recording], pause: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Recordings with a pause before, between and after them: (sample,)."""
    pieces = [_quiet(pause, rng)]
    for recording in recordings:
        pieces += [read_audio(recording.path, sample_rate=_SAMPLE_RATE), _quiet(pause, rng)]
    return np.concatenate(pieces)


def _quiet(pause: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.0, _PAUSE_NOISE, round(rng.uniform(*pause) * _SAMPLE_RATE)).astype(np.float32)
