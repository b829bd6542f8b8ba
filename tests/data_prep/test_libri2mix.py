from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest
from audiossl.data.turns import Turn, parse_turns

libri2mix = registry.get("data_prep", "libri2mix")


@pytest.fixture
def corpus(tmp_path):
    libri2mix.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_mixtures_with_their_turns(corpus, tmp_path):
    libri2mix.prepare(corpus, tmp_path / "out")
    for part in ("train", "dev", "test"):
        manifest = Manifest.open(tmp_path / "out" / part)
        assert list(manifest.ids) == ["103-1240-0000_1034-121119-0001", "200-1240-0000_211-121119-0001"]
        assert manifest.durations == pytest.approx([3.0, 3.0])
        assert len(manifest.audio(0, sample_rate=16_000)) == 48_000
        turns = parse_turns(manifest.column("utt2turns")[0])
        assert turns == [Turn("103", 0.2, 1.4), Turn("1034", 0.9, 2.95), Turn("103", 1.7, 2.1)]


def test_recordings_beside_the_table_come_before_those_of_the_current_directory(corpus, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(corpus / "train" / "wav", here / "wav")
    monkeypatch.chdir(here)
    libri2mix.prepare(corpus, tmp_path / "out")
    entry = (tmp_path / "out" / "dev" / "wav.scp").read_text().split()[1]
    assert Path(entry).parent == corpus / "dev" / "wav"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("wav.scp", " wav/103-1240-0000_1034-121119-0001.wav", " cat it |", "wav.scp:1: .* is no audio file"),
        ("segments", " 200-", " x200-", "wav.scp:2: nobody speaks in '200-1240-0000_211-121119-0001'"),
        ("segments", " 0.9 2.95", " 0.9", "segments:.*: .* is not `recording start end`"),
        ("utt2spk", "103_", "104_", "segments:.*: .* has no line in utt2spk"),
    ],
)
def test_faults_are_named(corpus, tmp_path, name, old, new, message):
    path = corpus / "dev" / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        libri2mix.prepare(corpus, tmp_path / "out")


def test_a_missing_file_is_named(corpus, tmp_path):
    (corpus / "test" / "segments").unlink()
    with pytest.raises(ValueError, match="test/segments: not found; --corpus must be the folder that holds"):
        libri2mix.prepare(corpus, tmp_path / "out")


def test_mixtures_with_their_sources(corpus, tmp_path):
    libri2mix.prepare(corpus, tmp_path / "out")
    for part, name in (("train", "train-100"), ("dev", "dev"), ("test", "test")):
        manifest = Manifest.open(tmp_path / "out" / "superb_ss" / part)
        assert list(manifest.ids) == ["103-1240-0000_1034-121119-0001", "200-1240-0000_211-121119-0001"]
        for index, mixture in enumerate(manifest.ids):
            sources = [manifest.column(f"utt2source{number}")[index] for number in (1, 2)]
            folder = corpus / "wav16k" / "min" / name
            assert sources == [str(folder / kind / f"{mixture}.wav") for kind in ("s1", "s2")]
            summed = 0.5 * sum(map(read_audio, sources))  # the imitation halves it
            np.testing.assert_allclose(manifest.audio(index, sample_rate=16_000), summed, atol=1e-4)


def test_either_layout_is_enough(corpus, tmp_path):
    for part in ("train", "dev", "test"):
        shutil.move(corpus / part, tmp_path / "kaldi" / part)
    libri2mix.prepare(corpus, tmp_path / "separation")
    assert {path.name for path in (tmp_path / "separation").iterdir()} == {"superb_ss"}
    libri2mix.prepare(tmp_path / "kaldi", tmp_path / "diarisation")
    assert {path.name for path in (tmp_path / "diarisation").iterdir()} == {"train", "dev", "test"}


def test_dev_is_the_published_draw(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(libri2mix, "_DEV_MIXTURES", 3)
    monkeypatch.setitem(libri2mix._MIXTURES, "dev", 10)
    folder = corpus / "wav16k" / "min" / "dev"
    for kind in ("mix_clean", "s1", "s2"):
        for number in range(8):
            shutil.copy(folder / kind / "103-1240-0000_1034-121119-0001.wav", folder / kind / f"more{number}.wav")
    libri2mix.prepare(corpus, tmp_path / "out")
    # The published script seeds the global generator, shuffles the sorted names and takes the first.
    names = sorted(path.stem for path in (folder / "s1").iterdir())
    state = random.getstate()
    random.seed(7)
    random.shuffle(names)
    random.setstate(state)
    assert list(Manifest.open(tmp_path / "out" / "superb_ss" / "dev").ids) == sorted(names[:3])


def test_nothing_is_drawn_of_an_incomplete_folder(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(libri2mix, "_DEV_MIXTURES", 1)
    with pytest.raises(
        ValueError, match="dev/mix_clean: 2 mixtures, of which the published draw of 1 from 3,000 would be"
    ):
        libri2mix.prepare(corpus, tmp_path / "out")


def test_a_missing_source_is_named(corpus, tmp_path):
    (corpus / "wav16k" / "min" / "test" / "s2" / "200-1240-0000_211-121119-0001.wav").unlink()
    with pytest.raises(ValueError, match="s2/200-.*.wav: not there, but .*mix_clean/200-.* is"):
        libri2mix.prepare(corpus, tmp_path / "out")
    shutil.rmtree(corpus / "wav16k" / "min" / "dev" / "s1")
    with pytest.raises(ValueError, match="dev/s1: not found"):
        libri2mix.prepare(corpus, tmp_path / "again")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    libri2mix.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "train 2 of 13,900, dev 2 of 3,000, superb_ss/train 2 of 13,900, superb_ss/dev 2 of 1,000"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
