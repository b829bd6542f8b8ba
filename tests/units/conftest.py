"""A spoken-like corpus: stretches of four sounds, with an alignment."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir

SOUNDS = {"a": (300, 900), "i": (250, 2500), "s": (4000, 6000), "u": (300, 600)}


def utterance(rng, seconds):
    """Return (waveform, phones): tenths of a second, each of one sound with noise."""
    times = np.arange(1600) / 16000
    parts, phones = [], []
    for tenth in range(round(10 * seconds)):
        name = str(rng.choice(list(SOUNDS)))
        tones = sum(np.sin(2 * np.pi * hertz * times + rng.uniform(0, 6)) for hertz in SOUNDS[name])
        parts.append(0.1 * tones + 0.01 * rng.standard_normal(1600))
        phones.append((tenth / 10, 0.1, name))
    return np.concatenate(parts).astype(np.float32), phones


def make_corpus(folder, *, num_utterances=12, seed=0, seconds=(0.5, 2.0)):
    rng = np.random.default_rng(seed)
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_utterances):
        waveform, phones = utterance(rng, rng.uniform(*seconds))
        path = folder / f"audio{number:02d}.wav"
        write_audio(path, waveform, 16000)
        name = f"spk{number % 3}-{number:02d}"
        rows.append(CorpusUtterance(name, name, path, f"spk{number % 3}", columns={}, phones=phones))
    write_data_dir(rows, folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def shared_corpus(tmp_path_factory):
    """For tests that write nothing into it."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus")


@pytest.fixture
def new_corpus():
    return make_corpus
