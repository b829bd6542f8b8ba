from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.corpus import write_imitation
from audiossl.data.kaldi import read_table
from audiossl.data.manifest import Manifest

commands = registry.get("data_prep", "speech_commands")
V2_ONLY = ("backward", "follow", "forward", "learn", "visual")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("commands") / "corpus"
    commands.fake(root)
    return root


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "corpus")


def test_splits_follow_the_lists(original, tmp_path):
    commands.prepare(original, tmp_path)
    made = {split: Manifest.open(tmp_path / split) for split in ("train", "dev", "test")}
    assert {split: len(manifest) for split, manifest in made.items()} == {"train": 60, "dev": 30, "test": 30}
    assert set(made["dev"].column("utt2spk")) == {"c50f55b8"}
    assert set(made["test"].column("utt2spk")) == {"ffd2c12f"}
    index = list(made["train"].ids).index("0a7c2a8d-bed-0")
    assert made["train"].column("utt2keyword")[index] == made["train"].column("text")[index] == "bed"
    assert list(Manifest.open(tmp_path / "noise").ids) == ["pink_noise", "running_tap"]


def test_twelve_classes(original, tmp_path):
    config = commands.Config(unknown_percentage=25.0, silence_percentage=20.0)
    commands.prepare(original, tmp_path, config)
    ten = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
    for split, copies in (("train", 2), ("dev", 1)):
        manifest = Manifest.open(tmp_path / f"{split}_12")
        counts = Counter(manifest.column("utt2keyword"))
        assert {counts[word] for word in ten} == {copies}
        assert set(counts) == ten | {"_unknown_", "_silence_"}
        # Python rounds 2.5 to 2.
        assert (counts["_unknown_"], counts["_silence_"]) == ((5, 4) if split == "train" else (2, 2))
        said = Manifest.open(tmp_path / split)
        words = dict(zip(said.ids, said.column("utt2keyword"), strict=True))
        for utterance, keyword in zip(manifest.ids, manifest.column("utt2keyword"), strict=True):
            if keyword == "_unknown_":
                assert words[utterance] not in ten
    official = Manifest.open(tmp_path / "test_12")
    assert Counter(official.column("utt2keyword")) == dict.fromkeys([*ten, "_unknown_", "_silence_"], 1)


def test_silence_of_train_and_dev_is_from_different_stretches(original, tmp_path):
    commands.prepare(original, tmp_path, commands.Config(silence_percentage=200.0))
    for split, (low, high) in (("train", (0.0, 13.5)), ("dev", (13.5, 15.0))):
        rows = [
            value.split() for _, key, value in read_table(tmp_path / f"{split}_12" / "segments") if "silence" in key
        ]
        assert rows
        for _, start, end in rows:
            assert float(end) - float(start) == pytest.approx(1.0, abs=1e-5)
            assert low <= float(start) < float(end) <= high + 1e-6


def test_the_data_of_superb(corpus, tmp_path, caplog):
    commands.prepare(corpus, tmp_path, commands.Config(superb_silence=7))
    made = {part: Manifest.open(tmp_path / "superb_ks" / part) for part in ("train", "dev", "test")}
    ten = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
    speakers = {"train": {"0a7c2a8d", "c50f55b8"}, "dev": {"ffd2c12f"}}  # by the hash, which gives 1b4c9b89 to nobody
    starts = {}
    for part, names in speakers.items():
        counts = Counter(made[part].column("utt2keyword"))
        assert counts == {**dict.fromkeys(ten, len(names)), "_unknown_": 20 * len(names), "_silence_": 2 * 7}
        assert set(made[part].column("utt2spk")) == names | {"pink_noise", "running_tap"}
        rows = [
            row.split() for _, key, row in read_table(tmp_path / "superb_ks" / part / "segments") if "silence" in key
        ]
        assert Counter(row[0] for row in rows) == {"pink_noise": 7, "running_tap": 7}
        assert all(
            0 <= float(start) <= 14 and float(end) - float(start) == pytest.approx(1.0) for _, start, end in rows
        )
        starts[part] = {row[1] for row in rows}
    assert not starts["train"] & starts["dev"]
    assert list(made["test"].ids) == list(Manifest.open(tmp_path / "test_12").ids)
    shutil.rmtree(corpus / "speech_commands_test_set_v0.01")
    assert not caplog.messages
    commands.prepare(corpus, tmp_path / "without")
    assert not (tmp_path / "without" / "superb_ks").exists()
    (line,) = caplog.messages
    assert line.startswith(
        "test_12 and superb_ks are not written: they need the official test set, speech_commands_test_set_v0.01"
    )


def test_the_published_hash_rule():
    # Percentages worked out apart from the code under test, in exact fractions, from SHA-1 digests of the speaker's name.
    import hashlib
    from fractions import Fraction

    names = [f"{number:08x}" for number in range(300)]
    for name in names:
        remainder = int.from_bytes(hashlib.sha1(name.encode()).digest()[-4:], "big") & (2**27 - 1)
        percentage = Fraction(100 * remainder, 2**27 - 1)
        expected = "dev" if percentage < 10 else "test" if percentage < 20 else "train"
        assert commands.hashed_split(f"bed/{name}_nohash_3.wav") == expected
    share = Counter(commands.hashed_split(f"{name}_nohash_0.wav") for name in names)
    assert 15 < share["dev"] < 50
    assert 15 < share["test"] < 50


def test_without_lists_the_hash_decides(corpus, tmp_path):
    rng = np.random.default_rng(0)
    speakers = [f"{number:08x}" for number in range(20)]
    for name in speakers:
        write_imitation(corpus / "bed" / f"{name}_nohash_0.wav", rng, duration=0.1, sample_rate=16000)
    for name in ("validation_list.txt", "testing_list.txt"):
        (corpus / name).unlink()
    splits = commands._splits(corpus, frozenset({"bed"}))
    for split, clips in splits.items():
        assert clips
        assert all(commands.hashed_split(clip.path.name) == split for clip in clips)


def test_v2_is_known_by_its_words(corpus, tmp_path):
    rng = np.random.default_rng(0)
    for word in V2_ONLY:
        write_imitation(corpus / word / "0a7c2a8d_nohash_0.wav", rng, duration=0.1, sample_rate=16000)
    commands.prepare(corpus, tmp_path / "out")
    assert len(set(Manifest.open(tmp_path / "out/train").column("utt2keyword"))) == 35
    assert not (tmp_path / "out/test_12").exists()  # the test set there is v1's
    with pytest.raises(ValueError, match="'v1', but .* holds v2"):
        commands.prepare(corpus, tmp_path / "v1", commands.Config(version="v1"))
    shutil.rmtree(corpus / "visual")
    with pytest.raises(ValueError, match="visual: not found, though backward is v2's"):
        commands.prepare(corpus, tmp_path / "cut")


def test_faults_are_named(corpus, tmp_path):
    (corpus / "bed" / "c50f55b8_nohash_0.wav").unlink()
    with pytest.raises(ValueError, match=r"validation_list\.txt:1: bed/c50f55b8_nohash_0\.wav is not there"):
        commands.prepare(corpus, tmp_path / "out")
    (corpus / "testing_list.txt").unlink()
    with pytest.raises(ValueError, match=r"testing_list\.txt: not found"):
        commands.prepare(corpus, tmp_path / "out")
    shutil.rmtree(corpus / "zero")
    with pytest.raises(ValueError, match="zero: not found"):
        commands.prepare(corpus, tmp_path / "out")
