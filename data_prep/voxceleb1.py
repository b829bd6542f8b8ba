"""VoxCeleb1: 153,516 utterances of 1,251 celebrities from videos, 16 kHz, 352 h, with the trial lists O, E and H.

Layout: `wav/<id10001 ...>/<video>/<00001 ...>.wav`, both archives unpacked in one place, or the development part in `dev/`, `vox1_dev/` or
`vox1_dev_wav/` and the test part in `test/`, `vox1_test/` or `vox1_test_wav/`. Here or in `meta/`, each if it is there: `veri_test.txt`
or, as SUPERB calls it, `voxceleb1_test_v2.txt` (O), `veri_test2.txt` (O, cleaned), `list_test_all.txt`, `list_test_all2.txt` (E), `list_test_hard.txt`, `list_test_hard2.txt` (H), all `1|0 wav wav`;
`iden_split.txt` or, as SUPERB calls it, `veri_test_class.txt` (`1|2|3 wav`), and `vox1_meta.csv`. Licence: CC BY 4.0. Source: Nagrani, Chung,
Zisserman: "VoxCeleb: a large-scale speaker identification dataset", Interspeech 2017; E and H: Chung, Nagrani, Zisserman, Interspeech 2018.

Writes `all`, `dev` (1,211 speakers) and `test` (40, id10270 to id10309), with `utt2video` and, from `vox1_meta.csv`, `utt2gender`; the original and the
cleaned lists as `trials_o` and `trials_o_cleaned` in `test` and, with `trials_e`, `trials_h` and theirs, in `all`, for E and H compare
speakers of both parts. Where VoxCeleb2 lies in the same folder, its speakers are left out. From
`iden_split.txt`: `iden_train`, `iden_dev`, `iden_test`, and the same as `train`, `dev` and `test` of `superb_sid`, for
`audiossl superb sid --data OUT/superb_sid`. Where both parts and list O are there, `superb_asv` for `audiossl superb asv --data OUT/superb_asv`:
`train` (all of `dev`), `test` with the original list O as `trials`, 37,720 of them, and `dev`: some of training's utterances with trials drawn
among them. Id: `<speaker>-<video>-<number>`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import compare_numbers, listed, published, text_lines, write_imitation
from audiossl.data.edit import per_speaker, subset
from audiossl.data.kaldi import TRIALS, UTT2SPK, read_table
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.verification.make_trials import count_pairs, make_trials, rename_trials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_PARTS = ("dev", "test", "vox1_dev", "vox1_test", "vox1_dev_wav", "vox1_test_wav")
_TEST = ("id10270", "id10309")  # the names that begin with E
_OTHER = "id0"  # what speakers of VoxCeleb2 begin with, which lies in the same folder at times
_SPEAKERS = {"dev": 1211, "test": 40}
_LISTS = {
    "trials_o": ("veri_test.txt", "voxceleb1_test_v2.txt"),  # the same 37,720 trials; `v2` is not the cleaned list
    "trials_o_cleaned": ("veri_test2.txt",),
    "trials_e": ("list_test_all.txt",),
    "trials_e_cleaned": ("list_test_all2.txt",),
    "trials_h": ("list_test_hard.txt",),
    "trials_h_cleaned": ("list_test_hard2.txt",),
}
_IDENTIFICATION = {"1": "iden_train", "2": "iden_dev", "3": "iden_test"}
_IDENTIFICATION_LISTS = ("iden_split.txt", "veri_test_class.txt")
_SID = "superb_sid"
_ASV = "superb_asv"
_ASV_UTTERANCES = 25  # of each speaker in its `dev`
_ASV_TRIALS = 20_000


@dataclass(frozen=True)
class Config:
    """How `superb_asv/dev` is made, which the protocol of SUPERB does not have (our variant).

    dev_speakers: of training, drawn at random, with up to 25 utterances each. held_out: leave these speakers out of `superb_asv/train`, so that they say
    something of speakers never heard; the protocol trains on all, and its authors' own development trials are of speakers of training.
    """

    dev_speakers: int = 40
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.dev_speakers < 2:
            raise ValueError(f"prep.dev_speakers: {self.dev_speakers} cannot be told apart; ask for at least 2")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the data directories and trial lists under `out`; nothing is copied."""
    corpus = published(corpus)
    folders = [folder for folder in (corpus / "wav", *(corpus / part / "wav" for part in _PARTS)) if folder.is_dir()]
    if not folders:
        raise ValueError(
            f"{corpus / 'wav'}: not found, nor {', '.join(f'{part}/wav' for part in _PARTS)}; unpack VoxCeleb1"
        )
    write_data_dir(_utterances(folders, _genders(corpus)), out / "all")
    manifest = Manifest.open(out / "all")
    speakers = np.array(list(manifest.column(UTT2SPK)))
    is_test = (speakers >= _TEST[0]) & (speakers <= _TEST[1])
    for name, chosen in (("dev", ~is_test), ("test", is_test)):
        if chosen.any():
            subset(out / "all", np.flatnonzero(chosen), out / name)
    compare_numbers(corpus, out, _SPEAKERS, "speakers")
    _write_identification(corpus, manifest, out)
    for name, files in _LISTS.items():
        found = _meta(corpus, *files)
        if found is None:
            _LOG.warning("%s is not written: it needs, in %s, %s", name, corpus, " or ".join(files))
        for part in ("all", "test") if name.startswith("trials_o") else ("all",):
            if found is not None and (out / part).is_dir():
                rename_trials(found, out / part / name, frozenset(Manifest.open(out / part).ids), utterance_id)
    if (out / "dev").is_dir() and (out / "test" / "trials_o").is_file():
        _write_superb(out, config or Config())
    else:
        lists = " or ".join(_LISTS["trials_o"])
        _LOG.warning("%s is not written: it needs both parts of the corpus and, in %s, %s", _ASV, corpus, lists)


def fake(root: Path) -> None:
    """Write a tiny imitation: two speakers of each part, two videos of two utterances, and all lists."""
    rng = np.random.default_rng(0)
    speakers = {"dev": ("id10001", "id10002"), "test": ("id10270", "id10271")}
    files: dict[str, list[str]] = {part: [] for part in speakers}
    for part, names in speakers.items():
        for speaker in names:
            for video in ("1zcIwhmdeo4", "-DpVZzkwHTA"):
                for number in (1, 2):
                    files[part].append(f"{speaker}/{video}/{number:05d}.wav")
                    path = root / f"vox1_{part}_wav" / "wav" / files[part][-1]
                    write_imitation(path, rng, duration=1.0, sample_rate=16000)
    every = [*files["dev"], *files["test"]]
    meta = root / "meta"
    meta.mkdir()
    for name, (file, *_) in _LISTS.items():
        heard = files["test"] if name.startswith("trials_o") else every
        pairs = [(one, other) for index, one in enumerate(heard) for other in heard[index + 1 :: 3]]
        pairs = pairs[1:] if name.endswith("cleaned") else pairs
        lines = [f"{int(one[:7] == other[:7])} {one} {other}\n" for one, other in pairs]
        (meta / file).write_text("".join(lines), encoding="utf-8")
    (meta / "iden_split.txt").write_text(
        "".join(f"{1 + k % 3} {file}\n" for k, file in enumerate(every)), encoding="utf-8"
    )
    rows = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    rows += [
        f"{name}\tA_Name\t{'mf'[k]}\tIreland\t{part}" for part in speakers for k, name in enumerate(speakers[part])
    ]
    (meta / "vox1_meta.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def utterance_id(file: str) -> str:
    """`id10001/video/00001.wav` of the lists -> `id10001-video-00001`."""
    return file.rpartition(".")[0].replace("/", "-")


def _utterances(folders: list[Path], genders: dict[str, str]) -> Iterator[CorpusUtterance]:
    for folder in folders:
        paths = _own(folder)
        if not paths:
            raise ValueError(f"{folder}: holds no <speaker>/<video>/<number>.wav of VoxCeleb1; unpack it again")
        for path in paths:
            file = path.relative_to(folder).as_posix()
            speaker, video, _ = file.split("/")
            columns = {"utt2video": video}
            if genders:
                if speaker not in genders:
                    raise ValueError(f"{path}: speaker {speaker} is not in vox1_meta.csv; restore that file")
                columns["utt2gender"] = genders[speaker]
            name = utterance_id(file)
            yield CorpusUtterance(name, name, path, speaker, columns=columns)


def _own(folder: Path) -> list[Path]:
    """Return the recordings in a folder, without those of VoxCeleb2."""
    paths = listed(folder, "*/*/*.wav", "*/*/*.flac")
    own = [path for path in paths if not path.parts[-3].startswith(_OTHER)]
    if len(own) < len(paths):
        _LOG.warning("%s: left out %d recordings of speakers %s..., VoxCeleb2's", folder, len(paths) - len(own), _OTHER)
    return own


def _genders(corpus: Path) -> dict[str, str]:
    """Speaker -> f or m; nothing where `vox1_meta.csv` is not there."""
    path = _meta(corpus, "vox1_meta.csv")
    if path is None:
        return {}
    found = {}
    for number, line in enumerate(text_lines(path), start=1):
        if number == 1:
            continue
        fields = line.split("\t")
        if len(fields) != 5 or fields[2] not in {"m", "f"}:
            raise ValueError(f"{path}:{number}: not `id name m|f nationality set` between tabs; restore the file")
        found[fields[0]] = fields[2]
    return found


def _write_identification(corpus: Path, manifest: Manifest, out: Path) -> None:
    path = _meta(corpus, *_IDENTIFICATION_LISTS)
    if path is None:
        _LOG.warning("%s is not written: it needs, in %s, %s", _SID, corpus, " or ".join(_IDENTIFICATION_LISTS))
        return
    number = {name: index for index, name in enumerate(manifest.ids)}
    chosen: dict[str, list[int]] = {part: [] for part in _IDENTIFICATION.values()}
    parts: dict[str, str] = {}
    for line, split, file in read_table(path):
        if split not in _IDENTIFICATION:
            raise ValueError(f"{path}:{line}: {split!r} is not 1, 2 or 3; restore the file")
        if utterance_id(file) not in number:
            raise ValueError(
                f"{path}:{line}: {file} is not among the recordings; unpack both parts, or take the list out"
            )
        if parts.setdefault(file, split) != split:
            raise ValueError(
                f"{path}:{line}: {file} is of part {split} here and of {parts[file]} above; restore the file"
            )
        chosen[_IDENTIFICATION[split]].append(number[utterance_id(file)])
    for part, indices in chosen.items():
        for place in (out / part, out / _SID / part.removeprefix("iden_")):
            subset(out / "all", np.array(indices, np.int64), place)


def _write_superb(out: Path, config: Config) -> None:
    """Write `superb_asv`."""
    rng = np.random.default_rng(0)
    heard = Manifest.open(out / "dev")
    speakers = np.array(list(heard.column(UTT2SPK)))
    drawn = rng.permutation(np.unique(speakers))[: config.dev_speakers]
    is_drawn = np.isin(speakers, drawn)
    training = ~is_drawn if config.held_out else np.ones_like(is_drawn)
    if not training.any():
        raise ValueError(
            f"prep.dev_speakers: {config.dev_speakers} held out of {len(drawn)} leave none; hold out fewer"
        )
    subset(out / "dev", np.flatnonzero(training), out / _ASV / "train")
    subset(
        out / "dev",
        np.intersect1d(np.flatnonzero(is_drawn), per_speaker(heard, _ASV_UTTERANCES, 0)),
        out / _ASV / "dev",
    )
    subset(out / "test", np.arange(len(Manifest.open(out / "test"))), out / _ASV / "test")
    shutil.copyfile(out / "test" / "trials_o", out / _ASV / "test" / TRIALS)
    dev = Manifest.open(out / _ASV / "dev")
    pairs = count_pairs(np.unique(list(dev.column(UTT2SPK)), return_inverse=True)[1])
    make_trials(dev, out / _ASV / "dev" / TRIALS, random=min(_ASV_TRIALS, 2 * min(pairs)), rng=rng)


def _meta(corpus: Path, *names: str) -> Path | None:
    """Return where a list or table lies, by the first of its names that is there; None where it is not."""
    places = (folder / name for name in names for folder in (corpus, corpus / "meta"))
    return next((path for path in places if path.is_file()), None)
