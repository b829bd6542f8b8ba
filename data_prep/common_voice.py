"""Common Voice: sentences read aloud by volunteers in more than a hundred languages, MP3; SUPERB-SG takes 7.0 in Spanish, Chinese and Arabic.

Layout: `<language>/{train,dev,test}.tsv` (with `client_id`, `path`, `sentence` and `accent` or `accents`) and `<language>/clips/*.mp3`. Licence: CC0. Source: Ardila et al.:
"Common Voice: a massively-multilingual speech corpus", LREC 2020; commonvoice.mozilla.org.

Writes `train`, `dev` and `test` of one language with `text`: in capitals and without punctuation, except apostrophes. A sentence of Spanish, Chinese
or Arabic that holds letters of another script is left out, of Chinese and Arabic also one with an apostrophe; of Spanish the accent `mexicano`, which later
releases call `México`, alone is taken; Chinese is written without spaces. Accents that are no part of a letter are left out, in Spanish all combining ones.
SUPERB-SG does the same by lists of characters, where Unicode's classes are asked here, so that a few sentences differ. A clip that is empty or
damaged is named and left out; more of them in a part than `--prep.max_bad_fraction` is an error. Id: `<speaker>-<clip>`, speaker: the first 16
characters of `client_id`.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import check_fraction, identifier, published, text_lines, that_open
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARTS = ("train", "dev", "test")
_SCRIPTS: dict[str, str | tuple[str, ...]] = {
    "es": "LATIN",
    "zh-CN": ("CJK", "IDEOGRAPHIC"),
    "ar": "ARABIC",
}  # what the Unicode names of their letters begin with
_SPACELESS = {"zh-CN"}
_ACCENTS = {"es": ("mexicano", "México")}  # of one accent, by release
_SEPARATORS = re.compile(r"\s*[,|]\s*")
_SAME = str.maketrans({"’": "'", "\u02bc": "'", "ㄧ": "一"})


@dataclass(frozen=True)
class Config:
    """language: folder of the corpus. accent: take these speakers alone; None is SUPERB-SG's choice, "" is everybody. max_bad_fraction: of a part."""

    language: str = "es"
    accent: str | None = None
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_fraction(self.max_bad_fraction)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the three data directories under `out`; nothing is copied."""
    config = config or Config()
    language = config.language
    members = [f"{language}/{name}" for name in ("clips", *(f"{part}.tsv" for part in _PARTS))]
    folder = published(corpus, *members) / language
    accents = _ACCENTS.get(language, ()) if config.accent is None else (config.accent,) if config.accent else ()
    for part in _PARTS:
        listed = list(_utterances(folder, part, language, accents))
        if accents and not listed:
            raise ValueError(
                f"{folder / part}.tsv: no sentence of a speaker whose accent is {' or '.join(accents)}; "
                'name another accent of that list as --prep.accent, or give --prep.accent "" to take everybody'
            )
        write_data_dir(that_open(listed, part, config.max_bad_fraction), out / part)


def fake(root: Path) -> None:
    """Write a tiny imitation: Spanish and Chinese, with sentences that are left out."""
    rng = np.random.default_rng(0)
    sentences = {
        "es": (
            ("¿Dónde está el niño?", "mexicano"),
            ("«Bien», dijo.", "mexicano"),
            ("箱 no", "mexicano"),
            ("Vale.", "andino"),
        ),
        "zh-CN": (("你好，世界。", ""), ("我 很好！", ""), ("我用 Linux", "")),
    }
    for language, rows in sentences.items():
        (root / language / "clips").mkdir(parents=True)
        for part in _PARTS:
            lines = ["client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"]
            for number, (sentence, accent) in enumerate(rows):
                name = f"common_voice_{language}_{part}{number}.mp3"
                _write_clip(root / language / "clips" / name, 0.1 * rng.standard_normal(24_000))
                speaker = f"{number:02x}{len(part):02x}" * 32
                lines.append(f"{speaker}\t{name}\t{sentence}\t2\t0\t\t\t{accent}\t{language}\t")
            (root / language / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_clip(path: Path, waveform: np.ndarray) -> None:
    """Write (sample,) floats at 48 kHz as the corpus has them: a tag, and no first frame that says how many follow."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, waveform, 48_000, format="MP3")
    encoded = stream.getvalue()
    tag = b"ID3\4\0\0\0\0\0\x20" + bytes(32)
    path.write_bytes(tag + encoded[encoded.index(encoded[:2], 2) :])


def _utterances(folder: Path, part: str, language: str, wanted: tuple[str, ...]) -> Iterator[CorpusUtterance]:
    listed = folder / f"{part}.tsv"
    rows = csv.DictReader(text_lines(listed), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = rows.fieldnames or ()
    accents = "accents" if "accents" in names else "accent"
    lacking = next((name for name in ("client_id", "path", "sentence", accents) if name not in names), None)
    if lacking is not None:
        raise ValueError(f"{listed}:1: no column {lacking!r}; restore the file")
    for row in rows:
        text = normalised(row["sentence"] or "", language)
        if not text or (wanted and not _has_accent(row[accents] or "", wanted)):
            continue
        path = folder / "clips" / row["path"]
        if not path.is_file():
            raise ValueError(f"{listed}:{rows.line_num}: {row['path']} is not in clips; unpack the whole corpus")
        speaker = row["client_id"][:16]
        name = f"{speaker}-{identifier(path.stem)}"
        yield CorpusUtterance(name, name, path, speaker, columns={"text": text})


def _has_accent(said: str, wanted: tuple[str, ...]) -> bool:
    """Whether a speaker, who may name several accents, names a wanted one."""
    return not {said, *_SEPARATORS.split(said)}.isdisjoint(wanted)


def normalised(sentence: str, language: str) -> str:
    """Return the text of a sentence; "" where it is left out."""
    text = unicodedata.normalize("NFKC", sentence).upper().translate(_SAME)
    script = _SCRIPTS.get(language)
    if script is not None and any(
        unicodedata.category(letter)[0] == "L" and not unicodedata.name(letter, "").startswith(script)
        for letter in text
    ):
        return ""
    if script not in {None, "LATIN"} and "'" in text:
        return ""
    kept = "".join(_kept(text, marks=script != "LATIN"))
    return ("" if language in _SPACELESS else " ").join(kept.split())


def _kept(text: str, *, marks: bool) -> Iterator[str]:
    """Yield letters, digits, apostrophes and, if `marks`, what combines with one of these; a space for others."""
    said = False
    for letter in text:
        kind = unicodedata.category(letter)[0]
        if kind != "M" or not marks:
            said = letter == "'" or kind in "LN"
        if kind != "M" or marks:
            yield letter if said else " "
