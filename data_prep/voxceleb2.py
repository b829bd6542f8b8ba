"""VoxCeleb2: 1,128,246 utterances of 6,112 celebrities from videos, 2,442 h, as AAC.

Layout: `dev/aac/<id00012 ...>/<video>/<00001 ...>.m4a` (5,994 speakers) and `aac/...` (118), as the archives of the two parts unpack, each if it is
there; also `aac` in `vox2_dev/`, `vox2_dev_aac/`, `test/`, `vox2_test/`, `vox2_test_aac/`; `wav` for `aac` where the recordings were converted, or
the speakers without such a folder. A bare `aac` or `wav` is the development part if no other folder is and either it has more than 118 speakers or the
test part has a folder of its own. Speakers of VoxCeleb1 in the same folder are left out; of a recording as `.m4a` and `.wav` or `.flac` the
latter is taken. Here or in `meta/`, if it is there: `vox2_meta.csv`. Licence: CC BY 4.0. Source: Chung, Nagrani, Zisserman: "VoxCeleb2: deep speaker recognition", Interspeech 2018.

Writes `dev` and `test` with `utt2video` and, from `vox2_meta.csv`, `utt2gender`; id: `<speaker>-<video>-<number>`. libsndfile cannot read AAC: `.m4a` is decoded by ffmpeg, once, to
16 kHz FLAC (about 130 GB in all) under `audio`, or in the folder `--prep.audio`, where what is there already is used again.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the configuration resolves the annotations at run time

import numpy as np

from audiossl.data.corpus import compare_numbers, listed, published, text_lines, write_imitation
from audiossl.data.threads import in_threads
from audiossl.data.writer import CorpusUtterance, check, write_data_dir

_LOG = logging.getLogger(__name__)
_PLACES = {"dev": ("dev", "vox2_dev", "vox2_dev_aac"), "test": ("test", "vox2_test", "vox2_test_aac")}
_TEST_SPEAKERS = 118
_SPEAKERS = {"dev": 5994, "test": _TEST_SPEAKERS}
_OTHER = "id1"  # what speakers of VoxCeleb1 begin with, which lies in the same folder at times
_KINDS = ("aac", "wav")
_META = "vox2_meta.csv"
_SUFFIXES = (".m4a", ".flac", ".wav")  # of one recording the last is taken


@dataclass(frozen=True)
class Config:
    """audio: folder for what ffmpeg decodes, which outlives a failed run; none: `audio` beside the data directories."""

    audio: Path | None = None


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write `dev` and `test` under `out`; only `.m4a` is decoded, nothing is copied."""
    config = config or Config()
    corpus = published(corpus)
    there = _folders(corpus)
    if not there:
        raise ValueError(f"{corpus / 'dev' / 'aac'}: not found, nor any other part of VoxCeleb2; unpack it")
    audio = (out / "audio" if config.audio is None else config.audio).absolute()
    recordings = {part: _recordings(folder, audio / part) for part, folder in there.items()}
    genders = _genders(corpus)
    utterances = {
        part: [_utterance(source.relative_to(there[part]), place, genders) for source, place in pairs]
        for part, pairs in recordings.items()
    }
    for own in utterances.values():
        check(own)  # before hours of decoding
    _decode({source: place for pairs in recordings.values() for source, place in pairs if source != place})
    for part, own in utterances.items():
        write_data_dir(own, out / part)
    compare_numbers(corpus, out, _SPEAKERS, "speakers")


def fake(root: Path) -> None:
    """Write a tiny imitation: three speakers of dev and one of test, two videos of two utterances, converted to `.wav` already."""
    rng = np.random.default_rng(0)
    rows = ["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set "]
    rows += [
        f"id000{number} ,n0000{number} ,{'mf'[number % 2]} ,{'test' if number == 17 else 'dev'} "
        for number in (12, 15, 16, 17)
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "vox2_meta.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for part, speakers in (("dev", ("id00012", "id00015", "id00016")), ("test", ("id00017",))):
        for speaker in speakers:
            for video in ("21Uxsk56VDQ", "-2VOr6E3h2A"):
                for number in (1, 2):
                    path = root / part / "wav" / speaker / video / f"{number:05d}.wav"
                    write_imitation(path, rng, duration=1.0, sample_rate=16000)


def _folders(corpus: Path) -> dict[str, Path]:
    """The folder of speakers of each part that is there."""
    there = {part: folder for part, places in _PLACES.items() if (folder := _folder(corpus, places)) is not None}
    bare = _folder(corpus, (".",))
    if bare is not None and len(there) < len(_PLACES):
        few = sum(path.is_dir() and not path.name.startswith(_OTHER) for path in listed(bare, "*")) <= _TEST_SPEAKERS
        there["test" if "dev" in there or (few and "test" not in there) else "dev"] = bare
    return there


def _folder(corpus: Path, places: tuple[str, ...]) -> Path | None:
    candidates = (corpus / place / kind for place in places for kind in _KINDS)
    found = next((folder for folder in candidates if folder.is_dir()), None)
    without = (corpus / place for place in places)
    return found or next((folder for folder in without if any(folder.glob("id[0-9]*/"))), None)


def _recordings(folder: Path, audio: Path) -> list[tuple[Path, Path]]:
    """(published file, file that can be read) of each recording."""
    paths = [path for path in listed(folder, "*/*/*") if path.suffix in _SUFFIXES]
    own = [path for path in paths if not path.parts[-3].startswith(_OTHER)]
    if len(own) < len(paths):
        _LOG.warning("%s: left out %d recordings of speakers %s..., VoxCeleb1's", folder, len(paths) - len(own), _OTHER)
    if not own:
        raise ValueError(f"{folder}: holds no <speaker>/<video>/<number>.m4a of VoxCeleb2; unpack it again")
    own.sort(key=lambda path: _SUFFIXES.index(path.suffix))
    return [
        (path, audio / path.relative_to(folder).with_suffix(".flac") if path.suffix == ".m4a" else path)
        for _, path in sorted({path.with_suffix(""): path for path in own}.items())
    ]


def _utterance(file: Path, place: Path, genders: dict[str, str]) -> CorpusUtterance:
    speaker, video, number = file.with_suffix("").parts
    name = f"{speaker}-{video}-{number}"
    columns = {"utt2video": video}
    if genders:
        if speaker not in genders:
            raise ValueError(f"{place}: speaker {speaker} is not in vox2_meta.csv; restore that file")
        columns["utt2gender"] = genders[speaker]
    return CorpusUtterance(name, name, place, speaker, columns=columns)


def _genders(corpus: Path) -> dict[str, str]:
    """Speaker -> f or m; nothing where `vox2_meta.csv` is not there."""
    path = next((path for path in (corpus / _META, corpus / "meta" / _META) if path.is_file()), None)
    if path is None:
        return {}
    lines = list(text_lines(path)) or [""]
    rows = [[field.strip() for field in re.split(r"[,\t]", line)] for line in lines]
    place = rows[0].index("Gender") if "Gender" in rows[0] else len(rows[0])
    found = {}
    for number, fields in enumerate(rows[1:], start=2):
        if len(fields) <= place or fields[place] not in {"m", "f"}:
            raise ValueError(f"{path}:{number}: no m or f in a column Gender; restore the file")
        found[fields[0]] = fields[place]
    return found


def _decode(places: dict[Path, Path]) -> None:
    """Decode each published file to its place, unless it is there. ffmpeg is a process of its own, so that threads suffice."""
    missing = [source for source, place in places.items() if not place.is_file()]
    if not missing:
        return
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise ValueError(
            f"{missing[0]}: m4a is decoded by ffmpeg, which is not installed; install it, or convert the {len(missing)} files to .wav"
        )

    def work(source: Path) -> None:
        place = places[source]
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.partial")
        words = [ffmpeg, "-nostdin", "-v", "error", "-y", "-i", str(source), "-vn", "-ac", "1", "-ar", "16000"]
        words += ["-c:a", "flac", "-sample_fmt", "s16", "-threads", "1", "-f", "flac", str(partial)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise ValueError(f"{source}: ffmpeg cannot decode it ({said}); unpack it again")
        partial.replace(place)

    for _ in in_threads(work, missing, len(missing), "decoding m4a"):
        pass
