"""Audio SNIPS: the SNIPS commands read by 16 voices of Amazon Polly; slots of 39 types.

Layout, as prepared for SUPERB: `{train,valid,test}/<voice>-snips-<part>-<number>.wav` and `all.iob.snips.txt`, a line per utterance: its id, `BOS words EOS`,
a tab, and a mark per word, `O`, `B-type` or `I-type`, one for BOS before them and the intent after them; in the folder or in `SNIPS` inside it. `slots.txt`, which may lie beside it, is not read: slots are those that the list marks.
Licence of the annotations: CC0 1.0. Source: Coucke et al., arXiv:1805.10190, 2018; speech: Lai et al., arXiv:2010.13105, 2020.

Writes `train`, `dev` and `test`, of other voices each, with `text`, `utt2slots` (`play B-artist the clash E-artist`) and `utt2intent`. Words in upper case, but for
types. Id: that of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import identifier, published, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER, _LIST = "SNIPS", "all.iob.snips.txt"
_PARTS = {"train": "train", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class Config:
    """Voices of train, dev and test: 8, 4 and 4, as SUPERB has them."""

    train: tuple[str, ...] = ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli")
    dev: tuple[str, ...] = ("Aditi", "Amy", "Geraint", "Nicole")
    test: tuple[str, ...] = ("Brian", "Emma", "Raveena", "Russell")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the three data directories under `out`; nothing is copied."""
    config = config or Config()
    if corpus is not None and (corpus / _FOLDER).is_dir():
        corpus = corpus / _FOLDER
    corpus = published(corpus, _LIST, *_PARTS.values())
    columns = dict(_columns(corpus / _LIST))
    for part, folder in _PARTS.items():
        voices = getattr(config, part)
        found = list(_utterances(corpus / folder, voices, columns))
        if not found:
            raise ValueError(
                f"{corpus / folder}: no recording of {', '.join(voices)} that {_LIST} lists; set prep.{part}"
            )
        write_data_dir(found, out / part)


def fake(root: Path) -> None:
    """Write a tiny imitation: three commands by two voices of each part."""
    rng = np.random.default_rng(0)
    commands = (
        "BOS play the clash EOS\tO O B-artist I-artist PlayMusic",
        "BOS book a table for two EOS\tO O O O O B-party_size BookRestaurant",
        "BOS rate this book four stars EOS\tO O B-object_select B-object_type B-rating_value B-rating_unit RateBook",
    )
    folder, lines = root / _FOLDER, []
    for part, published_part in _PARTS.items():
        for voice in getattr(Config(), part)[:2]:
            for number, command in enumerate(commands):
                name = f"{voice}-snips-{published_part}-{number}"
                write_imitation(folder / published_part / f"{name}.wav", rng, duration=0.8, sample_rate=16000)
                lines.append(f"{name} {command}\n")
    (folder / _LIST).write_text("".join(lines), encoding="utf-8")


def _columns(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the id of each line of the list, and its columns."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            text, _, marks = line.rstrip("\n").partition("\t")
            name, *words = text.split()[:1] + text.split()[2:-1]
            own = marks.split()
            if not words or len(own) != len(words) + 2:
                raise ValueError(
                    f"{path}:{number}: {len(own)} marks for {len(words)} words between BOS and EOS; restore the file"
                )
            words = [word.upper() for word in words]
            slots = with_slots(words, own[1:-1])
            yield name, {"text": " ".join(words), "utt2slots": slots, "utt2intent": identifier(own[-1])}


def with_slots(words: list[str], marks: list[str]) -> str:
    """Put `B-type` in front of the words of each slot, and `E-type` behind them. marks: `O`, `B-type` or `I-type`, one per word."""
    said = []
    for word, (mark, following) in zip(words, pairwise([*marks, "O"]), strict=True):
        kind = mark[2:]
        if mark.startswith("B-"):
            said.append(mark)
        said.append(word)
        if kind and following != f"I-{kind}":
            said.append(f"E-{kind}")
    return " ".join(said)


def _utterances(folder: Path, voices: tuple[str, ...], columns: dict[str, dict[str, str]]) -> Iterator[CorpusUtterance]:
    for path in sorted(folder.glob("*.wav")):
        voice = path.stem.partition("-")[0]
        if voice in voices and path.stem in columns:
            name = identifier(path.stem)
            yield CorpusUtterance(name, name, path, voice, columns=columns[path.stem])
