from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import audio_info
from audiossl.data.manifest import Manifest

digits = registry.get("data_prep", "free_spoken_digits")
WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    digits.fake(root / "corpus")
    digits.prepare(root / "corpus", root / "out")
    return root / "out"


def test_takes_are_split_as_published(made):
    expected = {"test": range(5), "dev": range(5, 10), "train": range(10, 12)}
    for split, takes in expected.items():
        ids = {f"{speaker}-{digit}-{take:02d}" for speaker in ("ann", "bob") for digit in range(10) for take in takes}
        manifest = Manifest.open(made / split)
        assert set(manifest.ids) == ids
        for index, name in enumerate(manifest.ids):
            speaker, digit, _ = name.split("-")
            assert manifest.column("utt2spk")[index] == speaker
            assert manifest.column("utt2digit")[index] == digit
            assert manifest.column("text")[index] == WORDS[int(digit)]


@pytest.mark.parametrize(("split", "passes"), [("train", 3), ("dev", 1), ("test", 1)])
def test_strings_use_each_recording_equally_often(made, split, passes):
    singles, strings = Manifest.open(made / split), Manifest.open(made / f"{split}_strings")
    expected = Counter(zip(singles.column("utt2spk"), singles.column("text"), strict=True))
    found = Counter()
    for speaker, text in zip(strings.column("utt2spk"), strings.column("text"), strict=True):
        assert 3 <= len(text.split()) <= 7
        found.update((speaker, word) for word in text.split())
    assert found == Counter({key: passes * count for key, count in expected.items()})


def test_strings_last_as_long_as_their_digits_and_pauses(made):
    strings = Manifest.open(made / "test_strings")
    for text, duration in zip(strings.column("text"), strings.durations, strict=True):
        words = text.split()
        spoken = sum(0.1 + 0.01 * WORDS.index(word) for word in words)  # as `fake` made them
        pauses = len(words) + 1
        assert spoken + 0.05 * pauses - 1e-3 <= duration <= spoken + 0.4 * pauses + 1e-3
    assert strings.audio(0, sample_rate=8000).dtype == np.float32


def test_strings_are_a_function_of_the_seed(made, tmp_path):
    digits.fake(tmp_path / "corpus")
    digits.prepare(tmp_path / "corpus", tmp_path / "same")
    digits.prepare(tmp_path / "corpus", tmp_path / "other", digits.Config(seed=1))
    name = "audio/test_strings/ann-string-0000.flac"
    assert (tmp_path / "same" / name).read_bytes() == (made / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (made / name).read_bytes()


def test_lengths_add_up_and_are_short_only_where_they_must():
    rng = np.random.default_rng(0)
    for total in range(1, 60):
        lengths = list(digits._lengths(total, rng))
        assert sum(lengths) == total
        assert all(3 <= length <= 7 for length in lengths) or (total < 3 and lengths == [total])


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds recordings"):
        digits.prepare(None, tmp_path / "out")
    with pytest.raises(ValueError, match="recordings: not found"):
        digits.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "recordings").mkdir()
    with pytest.raises(ValueError, match="no <digit>_<speaker>_<take>"):
        digits.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "recordings" / "seven_ann_0.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="seven_ann_0.wav: not named"):
        digits.prepare(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"prep\.pause"):
        digits.Config(pause=(0.4, 0.1))


@pytest.mark.skipif("AUDIOSSL_CORPORA" not in os.environ, reason="AUDIOSSL_CORPORA names no folder of real corpora")
def test_the_real_corpus(tmp_path):
    digits.prepare(Path(os.environ["AUDIOSSL_CORPORA"]) / "free-spoken-digits", tmp_path)
    sizes = {split: len(Manifest.open(tmp_path / split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 2400, "dev": 300, "test": 300}
    strings = Manifest.open(tmp_path / "train_strings")
    assert sum(len(text.split()) for text in strings.column("text")) == 3 * 2400
    path = tmp_path / "audio" / "train_strings" / f"{strings.ids[0]}.flac"
    assert audio_info(path).sample_rate == 8000
