"""CN-Celeb 1 and 2: Chinese celebrities in eleven genres, 16 kHz; 997 speakers, 130,109 utterances, and 1,996 speakers, 529,485 utterances.

Layout: `CN-Celeb_flac/data/<id00000 ...>/<genre>-<take>-<number>.flac`, `dev/dev.lst` (the training speakers), `eval/enroll/<speaker>-enroll.flac`,
`eval/test/<speaker>-<genre>-<take>-<number>.flac` and `eval/lists/trials.lst` (`<speaker>-enroll test/<name>.wav 1|0`, whatever the suffix of the files); and
beside it, if it is there, `CN-Celeb2_flac/data/<id10000 ...>/`. Give the folder that holds them; of older releases with `.wav` the folder is
`CN-Celeb`. Licence: CC BY-SA 4.0. Source: Fan et al.: "CN-Celeb: a challenging Chinese speaker recognition dataset", ICASSP 2020; Li et al.:
"CN-Celeb: multi-genre speaker recognition", Speech Communication 137, 2022; openslr.org/82.

Writes `train` (dev.lst) and `train2` (CN-Celeb2) with `utt2genre`, and `test`: enrolments and test utterances with `trials`. An enrolment is one recording, put
together of several; where `eval/lists/enroll.map` (`<speaker>-enroll <speaker>/<file> ...`) says of which, `test` has these too, and `enroll.map`, for
`audiossl verify --enrol-map`.
Id: `<speaker>-<genre>-<take>-<number>` or `<speaker>-enroll`.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import identifier, listed, published, text_lines, write_imitation
from audiossl.data.kaldi import TRIALS, read_table, write_table
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.verification.make_trials import rename_trials

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_FIRST, _SECOND = ("CN-Celeb_flac", "CN-Celeb"), ("CN-Celeb2_flac", "CN-Celeb2")
_SUFFIXES = (".flac", ".wav")
_NEEDED = ("data", "dev/dev.lst", "eval/enroll", "eval/test", "eval/lists/trials.lst")
_MAP = "eval/lists/enroll.map"


def prepare(corpus: Path | None, out: Path) -> None:
    """Write the data directories and the trial list under `out`; nothing is copied."""
    corpus = published(corpus)
    first, second = _inside(corpus, _FIRST), _inside(corpus, _SECOND)
    if first is None:
        raise ValueError(f"{corpus / _FIRST[0]}: not found; --corpus must be the folder that holds it")
    first = published(first, *_NEEDED)
    speakers = [name for line in text_lines(first / "dev" / "dev.lst") for name in line.split()]
    write_data_dir(_training(first / "data", _with_folder(first / "data", speakers)), out / "train")
    if second is not None:
        folders = (path.name for path in listed(second / "data", "*") if path.is_dir())
        write_data_dir(_training(second / "data", folders), out / "train2")
    models = _models(first / _MAP)
    write_data_dir(_evaluation(first, models), out / "test")
    if models:
        write_table(
            out / "test" / "enroll.map",
            ((model, " ".join(map(_enrolment_id, words))) for model, words in models.items()),
        )
    known = frozenset(Manifest.open(out / "test").ids)
    rename_trials(first / "eval" / "lists" / "trials.lst", out / "test" / TRIALS, known, _listed_id)


def fake(root: Path) -> None:
    """Write a tiny imitation: two training and two evaluation speakers of CN-Celeb 1, two of CN-Celeb 2."""
    rng = np.random.default_rng(0)

    def write(file: str) -> None:
        write_imitation(root / file, rng, duration=0.5, sample_rate=16000)

    first, second = _FIRST[0], _SECOND[0]
    for folder, speaker in ((first, "id00000"), (first, "id00001"), (second, "id10000"), (second, "id10001")):
        for genre in ("singing", "interview"):
            write(f"{folder}/data/{speaker}/{genre}-01-001.flac")
    tests = []
    for speaker in ("id00800", "id00801"):
        write(f"{first}/eval/enroll/{speaker}-enroll.flac")
        for genre in ("drama", "vlog"):
            tests.append(f"{speaker}-{genre}-01-002")
            write(f"{first}/eval/test/{tests[-1]}.flac")
    lines = [
        f"{speaker}-enroll test/{name}.wav {int(name.startswith(speaker))}\n"
        for speaker in ("id00800", "id00801")
        for name in tests
    ]
    for file, text in (("dev/dev.lst", "id00000\nid00001\n"), ("eval/lists/trials.lst", "".join(lines))):
        (root / first / file).parent.mkdir(parents=True, exist_ok=True)
        (root / first / file).write_text(text, encoding="utf-8")


def _inside(corpus: Path, names: tuple[str, ...]) -> Path | None:
    return next((corpus / name for name in names if (corpus / name).is_dir()), None)


def _with_folder(folder: Path, speakers: Sequence[str]) -> list[str]:
    """Return the listed speakers who have a folder, and name those who have none."""
    absent = [speaker for speaker in speakers if not (folder / speaker).is_dir()]
    if len(absent) == len(speakers):
        raise ValueError(f"{folder}: none of the {len(speakers)} speakers of dev.lst has a folder; unpack it again")
    if absent:
        _LOG.warning(
            "%s: %d of %d speakers of dev.lst have no folder: %s", folder, len(absent), len(speakers), " ".join(absent)
        )
    return [speaker for speaker in speakers if speaker not in absent]


def _training(folder: Path, speakers: Iterable[str]) -> Iterator[CorpusUtterance]:
    for speaker in speakers:
        paths = _audio(folder / speaker)
        for path in paths:
            name = f"{speaker}-{identifier(path.stem)}"
            columns = {"utt2genre": identifier(path.stem.partition("-")[0])}
            yield CorpusUtterance(name, name, path, speaker, columns=columns)


def _evaluation(folder: Path, models: dict[str, list[str]]) -> Iterator[CorpusUtterance]:
    found = {identifier(path.stem): path for part in ("enroll", "test") for path in _audio(folder / "eval" / part)}
    for word in chain.from_iterable(models.values()):
        place = folder / "data" / word
        path = next((path for path in map(place.with_suffix, _SUFFIXES) if path.is_file()), None)
        if path is None:
            raise ValueError(
                f"{folder / _MAP}: {word} is not among the recordings; unpack it again, or take the list out"
            )
        found.setdefault(_enrolment_id(word), path)
    for name, path in found.items():
        yield CorpusUtterance(name, name, path, name.partition("-")[0])


def _models(path: Path) -> dict[str, list[str]]:
    """Model -> recordings in `data/` that it is the mean of; none in a release without the list."""
    return {model: words.split() for _, model, words in read_table(path)} if path.is_file() else {}


def _enrolment_id(word: str) -> str:
    """`id00800/singing-01-001.wav` -> `id00800-singing-01-001`."""
    return identifier(word.removesuffix(".wav").removesuffix(".flac"))


def _audio(folder: Path) -> list[Path]:
    paths = [path for path in listed(folder, "*") if path.suffix in _SUFFIXES]
    if not paths:
        raise ValueError(f"{folder}: holds no .flac or .wav; unpack it again")
    return paths


def _listed_id(word: str) -> str:
    """`test/id00800-singing-01-001.wav` -> `id00800-singing-01-001`; `id00800-enroll` stays."""
    file = word.rpartition("/")[2]
    return identifier(file.removesuffix(".wav").removesuffix(".flac"))
