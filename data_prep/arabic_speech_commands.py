"""Arabic Speech Commands: 40 keywords, 24 speakers, ten takes of one second each, 16 kHz; 9,600 files, 2.7 h.

Layout: `dataset/<keyword>/<8-digit speaker>_NO_<take>.wav` (or `.opus`, `.ogg`, `.flac`), `train.csv` and `val.csv` with the columns
`file,class`. A row's suffix may differ from the file's, as after a transcoding. Licence: CC BY 4.0. Source: Ghandoura, Hjabo,
Al Dakkak: "Building and benchmarking an Arabic speech commands dataset for small-footprint keyword spotting", Engineering
Applications of Artificial Intelligence 102, 2021.

The published lists are disjoint in speakers: 18 in `train.csv`, 6 in `val.csv`. Writes `all_train` (the 18), `train` and `dev` (its
speakers but for two held out, and those two), and `test` (the 6 of `val.csv`): `text`, `utt2keyword` (white space as `_`).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import identifier, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NAME = re.compile(r"([0-9]{8})_NO_([0-9]+)")
_SUFFIXES = (".wav", ".opus", ".ogg", ".flac")


@dataclass(frozen=True)
class Config:
    """`dev_speakers` of the training speakers, drawn with `seed`, are held out for dev."""

    seed: int = 0
    dev_speakers: int = 2


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the four data directories under `out`; nothing is copied."""
    config = config or Config()
    corpus = published(corpus, "dataset", "train.csv", "val.csv")
    training, unseen = _listed(corpus, "train.csv"), _listed(corpus, "val.csv")
    held_out = _held_out(training, config)
    write_data_dir(training, out / "all_train")
    write_data_dir([item for item in training if item.speaker not in held_out], out / "train")
    write_data_dir([item for item in training if item.speaker in held_out], out / "dev")
    write_data_dir(unseen, out / "test")


def fake(root: Path) -> None:
    """Write a tiny imitation: three keywords, four training speakers and one for `val.csv`, the first and the last two of ten takes."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"train": ["file,class"], "val": ["file,class"]}
    for keyword in ("no", "yes", "zoom in"):
        for speaker in range(1, 6):
            for take in (1, 9, 10):
                name = f"dataset/{keyword}/{speaker:08d}_NO_{take:02d}.wav"
                rows["val" if speaker == 5 else "train"].append(f"{name},{keyword}")
                write_imitation(root / name, rng, duration=1.0, sample_rate=16000)
    for name, lines in rows.items():
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _held_out(training: Sequence[CorpusUtterance], config: Config) -> set[str]:
    speakers = sorted({item.speaker for item in training})
    if not 0 < config.dev_speakers < len(speakers):
        raise ValueError(
            f"prep.dev_speakers: {config.dev_speakers} of {len(speakers)} training speakers; hold out fewer"
        )
    rng = np.random.default_rng(config.seed)
    return {speakers[index] for index in rng.choice(len(speakers), config.dev_speakers, replace=False)}


def _listed(corpus: Path, name: str) -> list[CorpusUtterance]:
    place = corpus / name
    rows = csv.DictReader(text_lines(place))
    if not {"file", "class"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{place}:1: columns {rows.fieldnames}; the published list has file,class")
    found = [_utterance(corpus, row["file"], row["class"], f"{place}:{rows.line_num}") for row in rows]
    if not found:
        raise ValueError(f"{place}: lists no recording; restore the published list")
    return found


def _utterance(corpus: Path, file: str | None, keyword: str | None, place: str) -> CorpusUtterance:
    if not file or not keyword:
        raise ValueError(f"{place}: not `file,class`; correct the line")
    path = _existing(corpus / file)
    if path is None:
        raise ValueError(f"{place}: {file} is not there as {', '.join(_SUFFIXES)}; restore it or take out the line")
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise ValueError(f"{place}: {file} is not named <8-digit speaker>_NO_<take>; correct the line")
    label = identifier(keyword)
    utterance = f"{match[1]}-{label}-{match[2]}"
    columns = {"text": keyword, "utt2keyword": label}
    return CorpusUtterance(utterance, utterance, path, match[1], columns=columns)


def _existing(path: Path) -> Path | None:
    candidates = [path, *(path.with_suffix(suffix) for suffix in _SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
