"""Libri-Light's limited supervision: 10 minutes, an hour or ten hours of LibriSpeech with text, for fine-tuning.

Layout: the folder `librispeech_finetuning` of `librispeech_finetuning.tgz` (0.6 GB): `1h/<0-5>/{clean,other}/<speaker>/<chapter>/` are six
folds of ten minutes, `9h/{clean,other}/<speaker>/<chapter>/` what is left of ten hours; recordings and transcripts as in LibriSpeech.
Licence: CC BY 4.0, as LibriSpeech. Kahn et al., "Libri-light: a benchmark for ASR with limited or no supervision", ICASSP 2020.

Writes `train-10min` (one of the folds, published results are on the first), `train-1h` (all six) and `train-10h` (both parts). Development
and test data are LibriSpeech's: `audiossl prep librispeech`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.chapters import read_chapters
from audiossl.data.corpus import published, write_imitation
from audiossl.data.writer import write_data_dir

if TYPE_CHECKING:
    from pathlib import Path

_FOLDS = 6
_KINDS = ("clean", "other")


@dataclass(frozen=True)
class Config:
    """fold: which ten minutes of the hour are `train-10min`, 0 to 5."""

    fold: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fold < _FOLDS:
            raise ValueError(f"prep.fold: {self.fold} is no fold of ten minutes; give 0 to {_FOLDS - 1}")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write `train-10min`, `train-1h` and `train-10h` under `out`; nothing is copied."""
    config = config or Config()
    if corpus is not None and (corpus / "librispeech_finetuning").is_dir():
        corpus = corpus / "librispeech_finetuning"
    folds = [[f"1h/{fold}/{kind}" for kind in _KINDS] for fold in range(_FOLDS)]
    hour = [part for fold in folds for part in fold]
    rest = [f"9h/{kind}" for kind in _KINDS]
    corpus = published(corpus, *hour, *rest)
    sets = {"train-10min": folds[config.fold], "train-1h": hour, "train-10h": hour + rest}
    for name, parts in sets.items():
        write_data_dir(chain.from_iterable(read_chapters(corpus / part) for part in parts), out / name)


def fake(root: Path) -> None:
    """Write a tiny imitation: a reader of clean and one of other speech in each fold and in the rest, an utterance or two each."""
    rng = np.random.default_rng(0)
    speaker = 100
    for part in (*(f"1h/{fold}" for fold in range(_FOLDS)), "9h"):
        for kind in _KINDS:
            speaker += 7
            chapter = f"{speaker}-{speaker + 1000}"
            folder = root / "librispeech_finetuning" / part / kind / chapter.replace("-", "/")
            texts: tuple[str, ...] = (
                "HE HOPED THERE WOULD BE STEW",
                "IT'S LATE",
            )  # all letters that there are in every limited set
            if part != "9h":
                texts = texts[:1] if kind == _KINDS[0] else texts[1:]
            lines = []
            for number, text in enumerate(texts):
                name = f"{chapter}-{number:04d}"
                write_imitation(folder / f"{name}.flac", rng, duration=1.5, sample_rate=16000)
                lines.append(f"{name} {text}\n")
            (folder / f"{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
