"""CoVoST 2: sentences of Common Voice 4 with their translations; SUPERB-SG takes English to German, 430 h.

Layout: `<language>/validated.tsv` (with `client_id`, `path`, `sentence`) and `<language>/clips/*.mp3` of Common Voice 4, and beside them
`covost_v2.<language>_<target>.tsv` (with `path`, `translation`, `split`). Licence: CC BY-NC 4.0. Source: Wang et al., arXiv:2007.10310, 2020;
github.com/facebookresearch/covost.

Writes `train`, `dev` and `test` of one pair of languages with `text` and `utt2translation`, both as they were written, without a space before `.?,'`.
As in SUPERB-SG, a sentence is left out that has more than five times as many words as its translation, or the other way round, unless one of the
languages is written without spaces, or whose clip is not there. A clip that is empty or damaged is named and left out; more of them in a part than
`--prep.max_bad_fraction` is an error. Differs from SUPERB-SG: punctuation is not made uniform by the rules of Moses, and `|`, which stands for the
space among our tokens, becomes one. Id: `<speaker>-<clip>`, speaker: the first 16 characters of `client_id`.
"""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import check_fraction, identifier, published, text_lines, that_open
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Parts of the list that are in each of ours; what CoVoST adds to the training data of Common Voice has a name of its own.
_PARTS = {"train": {"train", "train_covost"}, "dev": {"dev"}, "test": {"test"}}
_MAX_RATIO = 5
_SPACELESS = {"ja", "zh-CN"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """source: folder of Common Voice. target: language of the translations. max_bad_fraction: of a part."""

    source: str = "en"
    target: str = "de"
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_fraction(self.max_bad_fraction)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the three data directories under `out`; nothing is copied."""
    config = config or Config()
    listed, spoken = f"covost_v2.{config.source}_{config.target}.tsv", f"{config.source}/validated.tsv"
    corpus = published(corpus, listed, spoken, f"{config.source}/clips")
    translations = {
        row["path"]: (row["split"], row["translation"])
        for row in _rows(corpus / listed, "path", "translation", "split")
    }
    found: dict[str, list[CorpusUtterance]] = {part: [] for part in _PARTS}
    spaced, unlike, absent = not _SPACELESS & {config.source, config.target}, 0, 0
    for row in _rows(corpus / spoken, "client_id", "path", "sentence"):
        split, translation = translations.get(row["path"], ("", ""))
        part = next((part for part, names in _PARTS.items() if split in names), None)
        path = corpus / config.source / "clips" / row["path"]
        if part is None:
            continue
        text = tidied(row["sentence"])
        if not is_pair(row["sentence"], translation, spaced=spaced) or not text or not tidied(translation):
            unlike += 1
        elif not path.is_file():
            absent += 1
        else:
            speaker = row["client_id"][:16]
            name = f"{speaker}-{identifier(path.stem)}"
            columns = {"text": text, "utt2translation": tidied(translation)}
            found[part].append(CorpusUtterance(name, name, path, speaker, columns=columns))
    for count, why in ((unlike, "a side is empty or much longer than the other"), (absent, "the clip is not there")):
        if count:
            _log.warning("%s: pairs left out because %s: %d", corpus / listed, why, count)
    for part, utterances in found.items():
        if not utterances:
            raise ValueError(
                f"{corpus / config.source / 'clips'}: none of the clips that {listed} puts in {part}; give Common Voice 4"
            )
        write_data_dir(that_open(utterances, part, config.max_bad_fraction), out / part)


def fake(root: Path) -> None:
    """Write a tiny imitation: three sentences of each part, and some that are left out."""
    import soundfile

    rng = np.random.default_rng(0)
    pairs = [
        ("Where is the lamp ?", "Wo ist die Lampe?"),
        ('He said: \\"Good\\".', '\\"Gut\\", sagte er.'),
        ("Come in.", "Komm | herein."),
    ]
    (root / "en" / "clips").mkdir(parents=True)
    spoken, listed = (
        ["client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"],
        ["path\ttranslation\tsplit"],
    )
    for split in ("train", "train_covost", "dev", "test"):
        for number, (sentence, translation) in enumerate([*pairs, ("Yes.", "Eins zwei drei vier fünf sechs.")]):
            name = f"common_voice_en_{split}{number}.mp3"
            soundfile.write(root / "en" / "clips" / name, 0.1 * rng.standard_normal(24_000), 48_000, format="MP3")
            spoken.append(f"{number:02x}{len(split):02x}".ljust(128, "0") + f"\t{name}\t{sentence}\t2\t0\t\t\t")
            listed.append(f"{name}\t{translation}\t{split}")
    spoken.append("ff".ljust(128, "0") + "\tcommon_voice_en_other.mp3\tNot translated.\t2\t0\t\t\t")
    (root / "en" / "validated.tsv").write_text("\n".join(spoken) + "\n", encoding="utf-8")
    (root / "covost_v2.en_de.tsv").write_text("\n".join(listed) + "\n", encoding="utf-8")


def tidied(text: str) -> str:
    """Return the text with single spaces, and none before `.?,'`."""
    return re.sub(r" +(?=[.?,'])", "", " ".join(text.replace("|", " ").split()))


def is_pair(text: str, translation: str, *, spaced: bool = True) -> bool:
    """Whether none is empty and, where both are `spaced`, written with spaces between words, one is not much longer than the other."""
    ours, theirs = len(text.split()), len(translation.split())
    return min(ours, theirs) > 0 and (not spaced or max(ours, theirs) <= _MAX_RATIO * min(ours, theirs))


def _rows(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    rows = csv.DictReader(text_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
    lacking = next((name for name in needed if name not in (rows.fieldnames or ())), None)
    if lacking is not None:
        raise ValueError(f"{path}:1: no column {lacking!r}; restore the file")
    for row in rows:
        yield {name: row[name] or "" for name in needed}
