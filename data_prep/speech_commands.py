"""Speech Commands v1 (30 words, 64,727 clips) and v2 (35 words, 105,829 clips) of one second, 16 kHz, crowd-sourced.

Layout: `<word>/<8 hexadecimal digits of a speaker>_nohash_<n>.wav`, `_background_noise_/*.wav`, `validation_list.txt`,
`testing_list.txt`; and, inside the folder or beside it, the official 12-class test set `speech_commands_test_set_v0.01` (v2:
`v0.02`). Licence: CC BY 4.0. Source: Warden: "Speech Commands: a dataset for limited-vocabulary speech recognition",
arXiv:1804.03209, 2018.

Writes `train`, `dev`, `test` with all words, split by the published lists or, where both are absent, by the rule they were made
with: 10 % and 10 % by the SHA-1 hash of the speaker. Writes `train_12` and `dev_12`: ten words, `_unknown_` (10 % as many clips, drawn
from the other words) and `_silence_` (as many segments of one second of the background noise, train's and dev's from different stretches),
and `test_12` if the official test set is there (else a line says that it is not); then also `superb_ks` for `audiossl superb ks --data OUT/superb_ks`: `train` and `dev` by the hash alone, whatever
the lists say, with all of the other words as `_unknown_`, and `test`. Its `_silence_` are seconds drawn beforehand, as many from each
noise, of which the protocol (for v1) draws a new one each time. Writes `noise`. All but `noise` have `utt2keyword`; a word's clip has its `text`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from audiossl.data.audio import audio_info
from audiossl.data.corpus import identifier, listed, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_WORDS = (
    "bed bird cat dog down eight five four go happy house left marvin nine no off on one right seven sheila six stop "
    "three tree two up wow yes zero"
)
_V1 = frozenset(_WORDS.split())
_V2_ONLY = frozenset(("backward", "follow", "forward", "learn", "visual"))
_UNKNOWN, _SILENCE, _NOISE = "_unknown_", "_silence_", "_background_noise_"
_LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
_SUPERB = "superb_ks"
_TEST_SETS = {"v1": "speech_commands_test_set_v0.01", "v2": "speech_commands_test_set_v0.02"}
_NAME = re.compile(r"([0-9a-f]+)_nohash_([0-9]+)\.wav")
_SPEAKER = re.compile(r"([0-9a-f]{8})_nohash_")
_MAX_CLIPS_PER_WORD = 2**27 - 1  # of the published hash rule
_DEV_NOISE = 0.9  # dev's silence comes from the last tenth of each noise recording, train's from before


@dataclass(frozen=True)
class Config:
    """version: which release the folder must be. unknown_percentage, silence_percentage: of the ten words' clips, in the _12 sets.

    superb_silence: seconds of each noise in `superb_ks/train` and in `superb_ks/dev` (our variant).
    """

    version: Literal["auto", "v1", "v2"] = "auto"
    seed: int = 0
    unknown_percentage: float = 10.0
    silence_percentage: float = 10.0
    superb_silence: int = 200


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the data directories under `out`; nothing is copied."""
    config = config or Config()
    corpus = published(corpus, _NOISE, *sorted(_V1))
    version = _version(corpus, config.version)
    noise = _noise(corpus / _NOISE)
    splits = _splits(corpus, _V1 | _V2_ONLY if version == "v2" else _V1)
    write_data_dir(noise, out / "noise")
    for name, clips in splits.items():
        if not clips:
            raise ValueError(f"{corpus}: no clip falls into {name}; unpack the whole corpus")
        write_data_dir(clips, out / name)
    for number, name in enumerate(("train", "dev")):
        rng = np.random.default_rng((config.seed, number))
        chosen = _twelve(splits[name], config.unknown_percentage, rng)
        wanted = round(config.silence_percentage / 100.0 * sum(map(_is_one_of_ten, splits[name])))
        silence = _cut_silence(noise, wanted, name, rng)
        write_data_dir([*chosen, *silence], out / f"{name}_12")
    places = (corpus / _TEST_SETS[version], corpus.parent / _TEST_SETS[version])
    official = next((folder for folder in places if folder.is_dir()), None)
    if official is None:
        told = "test_12 and %s are not written: they need the official test set, %s in %s or beside it"
        _LOG.warning(told, _SUPERB, _TEST_SETS[version], corpus)
        return
    write_data_dir(_official(official), out / "test_12")
    _write_superb([clip for clips in splits.values() for clip in clips], noise, official, out / _SUPERB, config)


def fake(root: Path) -> None:
    """Write a tiny imitation of v1: all words, four speakers, two noises and an official test set."""
    rng = np.random.default_rng(0)
    speakers = ("0a7c2a8d", "1b4c9b89", "c50f55b8", "ffd2c12f")
    for word in sorted(_V1):
        for speaker in speakers:
            write_imitation(root / word / f"{speaker}_nohash_0.wav", rng, duration=0.1, sample_rate=16000)
    for name in ("pink_noise", "running_tap"):
        write_imitation(root / _NOISE / f"{name}.wav", rng, duration=15.0, sample_rate=16000)
    for name, speaker in (("dev", speakers[2]), ("test", speakers[3])):
        lines = "".join(f"{word}/{speaker}_nohash_0.wav\n" for word in sorted(_V1))
        (root / _LISTS[name]).write_text(lines, encoding="utf-8")
    for word in (*_TEN, _UNKNOWN):
        path = root / _TEST_SETS["v1"] / word / f"{speakers[3]}_nohash_0.wav"
        write_imitation(path, rng, duration=0.1, sample_rate=16000)
    write_imitation(root / _TEST_SETS["v1"] / _SILENCE / "0.wav", rng, duration=0.1, sample_rate=16000)


def hashed_split(file_name: str, *, dev_percentage: float = 10.0, test_percentage: float = 10.0) -> str:
    """Which split a clip belongs to by the published rule: all clips of a speaker fall into the same one.

    The part of the name before `_nohash_` is hashed (SHA-1), taken modulo 2^27 and scaled to a percentage (Warden, 2018, sec. 7.2).
    """
    speaker = file_name.rpartition("/")[2].partition("_nohash_")[0]
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    percentage = number % (_MAX_CLIPS_PER_WORD + 1) * (100.0 / _MAX_CLIPS_PER_WORD)
    if percentage < dev_percentage:
        return "dev"
    return "test" if percentage < dev_percentage + test_percentage else "train"


def _version(corpus: Path, wanted: str) -> str:
    there = sorted(word for word in _V2_ONLY if (corpus / word).is_dir())
    if there and len(there) < len(_V2_ONLY):
        missing = min(_V2_ONLY.difference(there))
        raise ValueError(f"{corpus / missing}: not found, though {there[0]} is v2's; unpack the whole corpus")
    found = "v2" if there else "v1"
    if wanted not in {"auto", found}:
        raise ValueError(f"prep.version: {wanted!r}, but {corpus} holds {found}; give the other folder")
    return found


def _splits(corpus: Path, words: frozenset[str]) -> dict[str, list[CorpusUtterance]]:
    lists = _read_lists(corpus)
    splits: dict[str, list[CorpusUtterance]] = {"train": [], "dev": [], "test": []}
    for word in sorted(words):
        for path in listed(corpus / word, "*.wav"):
            name = f"{word}/{path.name}"
            split = hashed_split(name) if lists is None else lists.pop(name, ("train", ""))[0]
            splits[split].append(_clip(path, word))
    for name, (_, place) in (lists or {}).items():
        raise ValueError(f"{place}: {name} is not there; unpack the whole corpus")
    return splits


def _read_lists(corpus: Path) -> dict[str, tuple[str, str]] | None:
    """File name -> (split, file:line), of the published lists; None where both are absent."""
    paths = {split: corpus / name for split, name in _LISTS.items()}
    absent = [path for path in paths.values() if not path.is_file()]
    if len(absent) == len(paths):
        return None
    if absent:
        raise ValueError(f"{absent[0]}: not found, though the other list is there; unpack the whole corpus")
    return {
        line: (split, f"{path}:{number}")
        for split, path in paths.items()
        for number, line in enumerate(map(str.strip, text_lines(path)), start=1)
        if line
    }


def _clip(path: Path, word: str) -> CorpusUtterance:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not named <speaker>_nohash_<n>.wav; rename it or take it out")
    name = f"{match[1]}-{word}-{match[2]}"
    return CorpusUtterance(name, name, path, match[1], columns={"text": word, "utt2keyword": word})


def _noise(folder: Path) -> list[CorpusUtterance]:
    names = [(identifier(path.stem), path) for path in listed(folder, "*.wav")]
    if not names:
        raise ValueError(f"{folder}: holds no .wav; unpack the whole corpus")
    return [CorpusUtterance(name, name, path, name, columns={}) for name, path in names]


def _is_one_of_ten(clip: CorpusUtterance) -> bool:
    return clip.columns["utt2keyword"] in _TEN


def _twelve(clips: list[CorpusUtterance], percentage: float, rng: np.random.Generator) -> list[CorpusUtterance]:
    """Clips of the ten words, and some of the others as `_unknown_`; without text, which silence lacks."""
    wanted = [clip for clip in clips if _is_one_of_ten(clip)]
    others = [clip for clip in clips if not _is_one_of_ten(clip)]
    count = min(round(percentage / 100.0 * len(wanted)), len(others))
    chosen = [others[index] for index in sorted(rng.choice(len(others), count, replace=False))]
    return [_one_of_twelve(clip) for clip in (*wanted, *chosen)]


def _one_of_twelve(clip: CorpusUtterance) -> CorpusUtterance:
    label = clip.columns["utt2keyword"] if _is_one_of_ten(clip) else _UNKNOWN
    return CorpusUtterance(clip.id, clip.recording, clip.path, clip.speaker, columns={"utt2keyword": label})


def _write_superb(
    clips: list[CorpusUtterance], noise: list[CorpusUtterance], test: Path, out: Path, config: Config
) -> None:
    """Write the data of SUPERB's keyword spotting; clips whose speaker the hash gives to test are in none of it."""
    for number, name in enumerate(("train", "dev")):
        said = [_one_of_twelve(clip) for clip in clips if hashed_split(clip.path.name) == name]
        if not said:
            raise ValueError(f"{test.parent}: no speaker's hash falls into {name}; unpack the whole corpus")
        rng = np.random.default_rng((config.seed, 2 + number))
        write_data_dir([*said, *_seconds_of_each(noise, config.superb_silence, rng)], out / name)
    write_data_dir(_official(test), out / "test")


def _seconds_of_each(noise: list[CorpusUtterance], count: int, rng: np.random.Generator) -> Iterator[CorpusUtterance]:
    """Take `count` seconds at random places of each recording."""
    for source in noise:
        length = audio_info(source.path).duration
        if length < 1.0:
            raise ValueError(f"{source.path}: {length:.1f} s is too short to cut silence from; restore the recording")
        for number, start in enumerate(rng.uniform(0.0, length - 1.0, count)):
            yield _silence(source, number, start)


def _cut_silence(
    noise: list[CorpusUtterance], count: int, split: str, rng: np.random.Generator
) -> Iterator[CorpusUtterance]:
    """Take `count` seconds at random places: of the first nine tenths of the recordings for train, of the last for dev."""
    lengths = [audio_info(item.path).duration for item in noise]
    for number in range(count):
        index = int(rng.integers(len(noise)))
        source, length = noise[index], lengths[index]
        first, last = (_DEV_NOISE * length, length) if split == "dev" else (0.0, _DEV_NOISE * length)
        if last - first < 1.0:
            raise ValueError(f"{source.path}: {length:.1f} s is too short to cut silence for {split} from")
        yield _silence(source, number, rng.uniform(first, last - 1.0))


def _silence(source: CorpusUtterance, number: int, start: float) -> CorpusUtterance:
    name = f"{source.id}-{_SILENCE}-{number:05d}"
    columns = {"utt2keyword": _SILENCE}
    return CorpusUtterance(name, source.id, source.path, source.id, start, start + 1.0, columns=columns)


def _official(folder: Path) -> Iterator[CorpusUtterance]:
    """The clips of an official test set, whose folders are the twelve classes."""
    for label in (*_TEN, _UNKNOWN, _SILENCE):
        paths = listed(folder / label, "*.wav")
        if not paths:
            raise ValueError(f"{folder / label}: holds no .wav; unpack the test set again")
        for path in paths:
            named = _SPEAKER.search(path.stem)
            speaker = named[1] if named else label
            name = f"{speaker}-{label}-{identifier(path.stem)}"
            yield CorpusUtterance(name, name, path, speaker, columns={"utt2keyword": label})
