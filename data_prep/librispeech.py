"""LibriSpeech: 1,000 h of English audiobooks read by 2,484 speakers, 16 kHz, with transcripts.

Layout: `SPEAKERS.TXT` and `<part>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac` with one
`<speaker>-<chapter>.trans.txt` per chapter, in the folder `LibriSpeech` (give it or the folder above). Parts: `train-clean-100`,
`train-clean-360`, `train-other-500`, `dev-clean`, `dev-other`, `test-clean`, `test-other`; those that are there are prepared. Licence:
CC BY 4.0. Source: Panayotov, Chen, Povey, Khudanpur: "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015;
openslr.org/12.

Writes one data directory per part and, if all three training parts are there, `train-960`: `text` and `utt2gender` (`f`, `m`), and with
`--prep.lexicon` `utt2phones`. A speaker is a reader; for Kaldi's habit of one speaker per chapter, cut the utterance id at its last `-`.

Where `train-clean-100`, `dev-clean` and `test-clean` are there, also `superb_pr` for `audiossl superb pr asr --data OUT/superb_pr`: links to these as
`train`, `dev` and `test`. `pr` needs phones: SUPERB's are of `librispeech-lexicon-200k-g2p.txt` and `librispeech-lexicon-allothers-g2p.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.chapters import read_chapters
from audiossl.data.corpus import compare_numbers, published, text_lines, write_imitation
from audiossl.data.writer import write_data_dir
from audiossl.nn.lexicon import Lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiossl.data.writer import CorpusUtterance

_TRAINING = ("train-clean-100", "train-clean-360", "train-other-500")
_SUPERB = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}
_UTTERANCES = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}
_PARTS = tuple(_UTTERANCES)


@dataclass(frozen=True)
class Config:
    """parts: which to prepare; none named, all that are there. lexicon: files of lines `word phone phone ...`, a word's first pronunciation counts."""

    parts: tuple[str, ...] = ()
    lexicon: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in _PARTS:
                raise ValueError(f"prep.parts: {part!r} is no part of LibriSpeech; known: {', '.join(_PARTS)}")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write a data directory per part under `out`; nothing is copied."""
    config = config or Config()
    if corpus is not None and (corpus / "LibriSpeech").is_dir():
        corpus = corpus / "LibriSpeech"
    corpus = published(corpus, "SPEAKERS.TXT", *config.parts)
    parts = config.parts or tuple(part for part in _PARTS if (corpus / part).is_dir())
    if not parts:
        raise ValueError(f"{corpus}: holds none of {', '.join(_PARTS)}; --corpus must be the folder LibriSpeech")
    genders = _genders(corpus / "SPEAKERS.TXT")
    lexicon = Lexicon.read(config.lexicon) if config.lexicon else None
    for part in parts:
        write_data_dir(_utterances(corpus / part, genders, lexicon), out / part)
    compare_numbers(corpus, out, _UTTERANCES)
    if set(_TRAINING) <= set(parts):
        write_data_dir(
            chain.from_iterable(_utterances(corpus / part, genders, lexicon) for part in _TRAINING), out / "train-960"
        )
    if set(_SUPERB.values()) <= set(parts):
        (out / "superb_pr").mkdir()
        for split, part in _SUPERB.items():
            (out / "superb_pr" / split).symlink_to(Path("..", part))


def fake(root: Path) -> None:
    """Write a tiny imitation: two readers in each of the three training parts, `dev-clean` and `test-clean`."""
    rng = np.random.default_rng(0)
    speakers = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for number, part in enumerate((*_TRAINING, "dev-clean", "test-clean")):
        for speaker, sex in ((10 * number + 9, "F"), (100 * number + 10, "M")):
            speakers.append(f"{speaker:<5}| {sex} | {part:<17}| 25.03 | A Reader | Esq.")
            chapter = f"{speaker}-{1000 + number}"
            folder = root / "LibriSpeech" / part / chapter.replace("-", "/")
            for utterance in range(2):
                write_imitation(folder / f"{chapter}-{utterance:04d}.flac", rng, duration=2.5, sample_rate=16000)
            lines = f"{chapter}-0000 HE HOPED THERE WOULD BE STEW\n{chapter}-0001 IT'S LATE\n"
            (folder / f"{chapter}.trans.txt").write_text(lines, encoding="utf-8")
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("\n".join(speakers) + "\n", encoding="utf-8")


def _genders(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text_lines(path), start=1):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 5 or fields[1] not in {"F", "M"}:
            raise ValueError(f"{path}:{number}: not `speaker | F or M | part | minutes | name`; restore the file")
        found[fields[0]] = fields[1].lower()
    return found


def _utterances(part: Path, genders: dict[str, str], lexicon: Lexicon | None) -> Iterator[CorpusUtterance]:
    for utterance in read_chapters(part):
        if utterance.speaker not in genders:
            raise ValueError(
                f"{utterance.path.parent}: speaker {utterance.speaker} is not in SPEAKERS.TXT; restore that file"
            )
        columns = utterance.columns | {"utt2gender": genders[utterance.speaker]}
        if lexicon is not None:
            columns["utt2phones"] = _phones(lexicon, utterance)
        yield replace(utterance, columns=columns)


def _phones(lexicon: Lexicon, utterance: CorpusUtterance) -> str:
    try:
        return lexicon.phones_of(utterance.columns["text"])
    except ValueError as error:
        raise ValueError(f"{utterance.id}: {error}") from None
