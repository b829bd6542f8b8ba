from __future__ import annotations

import os
from pathlib import Path

import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest

commands = registry.get("data_prep", "arabic_speech_commands")


def prepared(root):
    commands.fake(root / "corpus")
    commands.prepare(root / "corpus", root / "out")
    return {name: Manifest.open(root / "out" / name) for name in ("all_train", "train", "dev", "test")}


def test_splits_follow_the_lists_and_share_no_speaker(tmp_path):
    made = prepared(tmp_path)
    speakers = {name: set(manifest.column("utt2spk")) for name, manifest in made.items()}
    assert {name: len(manifest) for name, manifest in made.items()} == {
        "all_train": 36,
        "train": 18,
        "dev": 18,
        "test": 9,
    }
    assert speakers["all_train"] == {f"{number:08d}" for number in range(1, 5)}
    assert speakers["train"] | speakers["dev"] == speakers["all_train"]
    assert not speakers["train"] & speakers["dev"]
    assert speakers["test"] == {"00000005"}


def test_keywords_have_no_space_and_texts_do(tmp_path):
    made = prepared(tmp_path)["test"]
    index = list(made.ids).index("00000005-zoom_in-10")
    assert made.column("utt2keyword")[index] == "zoom_in"
    assert made.column("text")[index] == "zoom in"
    expected = read_audio(tmp_path / "corpus/dataset/zoom in/00000005_NO_10.wav")
    assert (made.audio(index, sample_rate=16000) == expected).all()


def test_the_seed_chooses_who_is_held_out(tmp_path):
    commands.fake(tmp_path / "corpus")
    chosen = set()
    for seed in range(8):
        commands.prepare(tmp_path / "corpus", tmp_path / str(seed), commands.Config(seed=seed, dev_speakers=1))
        chosen |= set(Manifest.open(tmp_path / str(seed) / "dev").column("utt2spk"))
    assert len(chosen) > 1
    with pytest.raises(ValueError, match="4 of 4 training speakers"):
        commands.prepare(tmp_path / "corpus", tmp_path / "out", commands.Config(dev_speakers=4))


def test_faults_are_named_with_file_and_line(tmp_path):
    commands.fake(tmp_path)
    (tmp_path / "dataset/no/00000001_NO_09.wav").unlink()
    with pytest.raises(ValueError, match=r"train\.csv:3: dataset/no/00000001_NO_09\.wav is not there"):
        commands.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "train.csv").write_text("file,class\ndataset/no/00000001_NO_01.wav\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.csv:2: not `file,class`"):
        commands.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "train.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.csv:1: columns"):
        commands.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "val.csv").unlink()
    with pytest.raises(ValueError, match=r"val\.csv: not found"):
        commands.prepare(tmp_path, tmp_path / "out")


@pytest.mark.skipif("AUDIOSSL_CORPORA" not in os.environ, reason="AUDIOSSL_CORPORA names no folder of real corpora")
def test_the_real_corpus(tmp_path):
    commands.prepare(Path(os.environ["AUDIOSSL_CORPORA"]) / "arabic-speech-commands", tmp_path)
    made = {name: Manifest.open(tmp_path / name) for name in ("all_train", "train", "dev", "test")}
    assert {name: len(manifest) for name, manifest in made.items()} == {
        "all_train": 7200,
        "train": 6400,
        "dev": 800,
        "test": 2400,
    }
    assert len(set(made["test"].column("utt2keyword"))) == 40
    assert len(made["test"].audio(0, sample_rate=16000)) == 16000
