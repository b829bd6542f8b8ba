"""RIRS_NOISES: 60,000 simulated and 325 measured room impulse responses and 843 noises, 16 kHz.

Layout: `simulated_rirs/{smallroom,mediumroom,largeroom}/Room001/Room001-00001.wav`; `real_rirs_isotropic_noises/*.wav` with `rir_list`
(`--rir-id <id> --room-id <id> RIRS_NOISES/<path>`), which says which of them are impulse responses; `pointsource_noises/*.wav`; in the folder
`RIRS_NOISES` (give it or the folder above). Licence: Apache 2.0. Source: Ko, Peddinti, Povey, Seltzer, Khudanpur: "A study on data
augmentation of reverberant speech for robust speech recognition", ICASSP 2017; openslr.org/28.

Writes `simulated_rirs` and `real_rirs` (a speaker is a room) and `pointsource_noises`, each whose folder is there; the isotropic noises are left
aside. Of measured responses of several microphones the first is copied to `audio`: reading would take the mean of the channels, which is no room's response.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.audio import audio_info, read_audio, write_audio
from audiossl.data.corpus import compare_numbers, identifier, listed, published, write_imitation
from audiossl.data.kaldi import read_table
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_ROOMS = ("smallroom", "mediumroom", "largeroom")
_REAL, _SIMULATED, _POINT = "real_rirs_isotropic_noises", "simulated_rirs", "pointsource_noises"
_TOP = "RIRS_NOISES"
_PER_ROOM, _RESPONSES, _NOISES = 20_000, 325, 843


@dataclass(frozen=True)
class Config:
    """rooms: which of the simulated ones; VoxCeleb recipes often leave `largeroom` out."""

    rooms: tuple[str, ...] = _ROOMS

    def __post_init__(self) -> None:
        if not self.rooms or not set(self.rooms) <= set(_ROOMS):
            raise ValueError(f"prep.rooms: {list(self.rooms)}: choose from {', '.join(_ROOMS)}")


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the data directories under `out`."""
    config = config or Config()
    if corpus is not None and (corpus / _TOP).is_dir():
        corpus = corpus / _TOP
    corpus = published(corpus)
    members = {_SIMULATED: [f"{_SIMULATED}/{room}" for room in config.rooms], _REAL: [f"{_REAL}/rir_list"], _POINT: []}
    absent = [part for part in members if not (corpus / part).is_dir()]
    if len(absent) == len(members):
        raise ValueError(f"{corpus}: holds none of {', '.join(members)}; --corpus must be the folder {_TOP}")
    if absent:
        _LOG.warning("%s: not there, so not written: %s", corpus, ", ".join(absent))
    published(corpus, *(name for part in members if part not in absent for name in members[part]))
    if _SIMULATED not in absent:
        write_data_dir(_simulated(corpus / _SIMULATED, config.rooms), out / _SIMULATED)
    if _REAL not in absent:
        write_data_dir(_real(corpus, out / "audio" / "real_rirs"), out / "real_rirs")
    if _POINT not in absent:
        write_data_dir(_noises(corpus / _POINT), out / _POINT)
    numbers = {_SIMULATED: _PER_ROOM * len(config.rooms), "real_rirs": _RESPONSES, _POINT: _NOISES}
    compare_numbers(corpus, out, numbers)


def fake(root: Path) -> None:
    """Write a tiny imitation: two simulated rooms of each size, a measured response of two microphones, two noises."""
    import soundfile

    rng = np.random.default_rng(0)

    def response() -> np.ndarray:
        taps = np.arange(1600)
        return np.append(0.9, 0.3 * rng.standard_normal(1599) * np.exp(-taps[1:] / 300.0)).clip(-1, 1)

    for size in _ROOMS:
        for number in (1, 2):
            path = root / _TOP / _SIMULATED / size / f"Room{number:03d}" / f"Room{number:03d}-00001.wav"
            path.parent.mkdir(parents=True)
            write_audio(path, response(), 16000)
    real = root / _TOP / _REAL
    real.mkdir()
    soundfile.write(real / "RVB2014_type1_rir_room1.wav", np.stack([response(), response()], axis=1), 16000)
    write_audio(real / "air_type1_air_phone_1.wav", response(), 16000)
    write_imitation(real / "RVB2014_type1_noise_room1.wav", rng, duration=1.0, sample_rate=16000)
    names = ("RVB2014_type1_rir_room1", "air_type1_air_phone_1")
    lines = [f"--rir-id {k:05d} --room-id room{k} {_TOP}/{_REAL}/{name}.wav\n" for k, name in enumerate(names, start=1)]
    (real / "rir_list").write_text("".join(lines), encoding="utf-8")
    for number in range(2):
        path = root / _TOP / _POINT / f"noise-free-sound-{number:04d}.wav"
        write_imitation(path, rng, duration=1.0, sample_rate=16000)


def _simulated(folder: Path, rooms: tuple[str, ...]) -> Iterator[CorpusUtterance]:
    for size in rooms:
        paths = listed(folder / size, "Room*/*.wav")
        if not paths:
            raise ValueError(f"{folder / size}: holds no Room<number>/<response>.wav; unpack it again")
        for path in paths:
            name, room = f"{size}-{path.stem}", f"{size}-{path.parent.name}"
            yield CorpusUtterance(name, name, path, room)


def _real(corpus: Path, copies: Path) -> Iterator[CorpusUtterance]:
    """The responses of `rir_list`, those of several microphones through a copy of the first channel."""
    place = corpus / _REAL / "rir_list"
    for line, option, value in read_table(place):
        words = value.split()
        if option != "--rir-id" or len(words) < 4 or words[1] != "--room-id":
            raise ValueError(f"{place}:{line}: not `--rir-id id --room-id id path`; restore the file")
        path = corpus / words[-1].rpartition(f"{_TOP}/")[2]
        if not path.is_file():
            raise ValueError(f"{place}:{line}: {words[-1]} is not there; unpack RIRS_NOISES again")
        room = identifier(words[2])
        name = f"{room}-{identifier(path.stem)}"
        yield CorpusUtterance(name, name, _first_channel(path, copies), room)


def _first_channel(path: Path, copies: Path) -> Path:
    info = audio_info(path)
    if info.num_channels == 1:
        return path
    response = read_audio(path, channel=0)
    copies.mkdir(parents=True, exist_ok=True)
    place = copies / f"{path.stem}.wav"
    # The level of a response has no effect on speech, and 16 bits shall hold it.
    write_audio(place, response / np.abs(response).max() * np.float32(0.9), info.sample_rate)
    return place


def _noises(folder: Path) -> Iterator[CorpusUtterance]:
    paths = listed(folder, "*.wav")
    if not paths:
        raise ValueError(f"{folder}: holds no .wav; unpack it again")
    for path in paths:
        name = identifier(path.stem)
        yield CorpusUtterance(name, name, path, name)
