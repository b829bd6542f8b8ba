"""Audio SNIPS: the SNIPS commands read by 16 voices of Amazon Polly; slots of 39 types.

Layout, as prepared for SUPERB: `{train,valid,test}/<voice>-snips-<part>-<number>.wav` and `all.iob.snips.txt`, a line per utterance: its id, `BOS words EOS`,
a tab, and a mark per word, `O` or the type of its slot, one for BOS before them and the intent after them; in the folder or in `SNIPS` inside it. `slots.txt`, which may lie beside it, is not read: slots are those that the list marks.
Licence of the annotations: CC0 1.0. Source: Coucke et al., arXiv:1805.10190, 2018; speech: Lai et al., arXiv:2010.13105, 2020.

Writes `train`, `dev` and `test`, of other voices each, with `text`, `utt2slots` (`play B-artist the clash E-artist`) and `utt2intent`. Words in upper case, but for
types. As the published code has it, words of one type in a row are one slot, `&` is AND, and words that are one of `?!.,;-` are left out; a slot that one of these
begins or ends is marked too, which there lacks a mark. Id: that of the file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import identifier, listed, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_FOLDER, _LIST = "SNIPS", "all.iob.snips.txt"
_PARTS = {"train": "train", "dev": "valid", "test": "test"}
_SILENT = frozenset("?!.,;-")
"""Words that nobody says."""


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
        "BOS play the clash EOS\tO O artist artist PlayMusic",
        "BOS book a table for two EOS\tO O O O O party_size BookRestaurant",
        "BOS rate this book four stars EOS\tO O object_select object_type rating_value rating_unit RateBook",
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
    for number, line in enumerate(text_lines(path), start=1):
        text, _, marks = line.partition("\t")
        name, *words = text.split()[:1] + text.split()[2:-1]
        own = marks.split()
        if not words or len(own) != len(words) + 2:
            raise ValueError(
                f"{path}:{number}: {len(own)} marks for {len(words)} words between BOS and EOS; restore the file"
            )
        words = ["AND" if word == "&" else word.upper() for word in words]
        text = " ".join(word for word in words if word not in _SILENT)
        yield name, {"text": text, "utt2slots": with_slots(words, own[1:-1]), "utt2intent": identifier(own[-1])}


def with_slots(words: list[str], marks: list[str]) -> str:
    """Put `B-type` in front of the words of each slot, and `E-type` behind them; words that nobody says are left out.

    marks: `O` or the type, one per word; a `B-` or `I-` in front of a type is taken off.
    """
    types = [mark[2:] if mark.startswith(("B-", "I-")) else mark for mark in marks]
    said: list[str] = []
    for kind, pairs in groupby(zip(types, words, strict=True), key=itemgetter(0)):
        own = [word for _, word in pairs if word not in _SILENT]
        said += own if kind == "O" or not own else [f"B-{kind}", *own, f"E-{kind}"]
    return " ".join(said)


def _utterances(folder: Path, voices: tuple[str, ...], columns: dict[str, dict[str, str]]) -> Iterator[CorpusUtterance]:
    wanted = {name for name in columns if name.startswith(tuple(f"{voice}-snips-{folder.name}-" for voice in voices))}
    for path in listed(folder, "*.wav"):
        voice = path.stem.partition("-")[0]
        if voice in voices and path.stem in columns:
            wanted.discard(path.stem)
            name = identifier(path.stem)
            yield CorpusUtterance(name, name, path, voice, columns=columns[path.stem])
    if wanted:
        told = "%s: %d utterances that %s lists have no .wav, as %s; unpack the whole corpus"
        _LOG.warning(told, folder, len(wanted), _LIST, min(wanted))
