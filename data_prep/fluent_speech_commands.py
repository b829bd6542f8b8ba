"""Fluent Speech Commands: 30,043 spoken commands to a home and a phone by 97 speakers, 16 kHz, 19 h; 31 intents.

Layout: `data/{train,valid,test}_data.csv` (a number, then `path,speakerId,transcription,action,object,location`) and `wavs/speakers/<speaker>/<name>.wav`,
in the folder or in `fluent_speech_commands_dataset` inside it. Licence: for academic research only, of Fluent.ai. Source: Lugosch et al.: "Speech model
pre-training for end-to-end spoken language understanding", Interspeech 2019.

Writes `train` (23,132), `dev` (3,118) and `test` (3,793), of different speakers, with `text`, `utt2action`, `utt2object` and `utt2location`; a value
of several words is written with underscores. Id: `<speaker>-<name>`.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import compare_numbers, identifier, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = "fluent_speech_commands_dataset"
_LISTS = {"train": "data/train_data.csv", "dev": "data/valid_data.csv", "test": "data/test_data.csv"}
_UTTERANCES = {"train": 23_132, "dev": 3118, "test": 3793}
_SLOTS = ("action", "object", "location")
_COLUMNS = ("path", "speakerId", "transcription", *_SLOTS)


def prepare(corpus: Path | None, out: Path) -> None:
    """Write the three data directories under `out`; nothing is copied."""
    if corpus is not None and (corpus / _FOLDER).is_dir():
        corpus = corpus / _FOLDER
    corpus = published(corpus, "wavs", *_LISTS.values())
    for part, name in _LISTS.items():
        write_data_dir(_utterances(corpus, corpus / name), out / part)
    compare_numbers(corpus, out, _UTTERANCES)


def fake(root: Path) -> None:
    """Write a tiny imitation: four commands by two speakers of each part."""
    rng = np.random.default_rng(0)
    commands = (
        ("Switch on the lights, please", "activate", "lights", "none"),
        ("Turn up the heat in the kitchen", "increase", "heat", "kitchen"),
        ("Set my phone's language to Chinese", "change language", "Chinese", "none"),
        ("Bring me my shoes", "bring", "shoes", "none"),
    )
    folder = root / _FOLDER
    (folder / "data").mkdir(parents=True)
    for part, name in _LISTS.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", *_COLUMNS])
            rows = [(speaker, command) for speaker in ("a1B", "c2D") for command in commands]
            for number, (speaker, command) in enumerate(rows):
                path = f"wavs/speakers/{part}{speaker}/{number:08x}-4474-11e9.wav"
                write_imitation(folder / path, rng, duration=0.5, sample_rate=16000)
                writer.writerow([number, path, f"{part}{speaker}", *command])


def _utterances(corpus: Path, listed: Path) -> Iterator[CorpusUtterance]:
    rows = csv.DictReader(text_lines(listed))
    lacking = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if lacking:
        raise ValueError(f"{listed}:1: no column {lacking[0]!r}; restore the file")
    for row in rows:
        place = f"{listed}:{rows.line_num}"
        if any(not (row[name] or "").strip() for name in _COLUMNS):
            raise ValueError(f"{place}: a value is missing; restore the file")
        path = corpus / row["path"]
        if not path.is_file():
            raise ValueError(f"{place}: {row['path']} is not there; unpack the whole corpus")
        speaker = identifier(row["speakerId"])
        name = f"{speaker}-{identifier(path.stem)}"
        columns = {f"utt2{slot}": identifier(row[slot]) for slot in _SLOTS}
        columns["text"] = " ".join(row["transcription"].split())
        yield CorpusUtterance(name, name, path, speaker, columns=columns)
