from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from audiossl import registry
from audiossl.data.augment import AugmentConfig, Augmenter
from audiossl.data.manifest import Manifest

rirs = registry.get("data_prep", "rirs_noises")


@pytest.fixture
def corpus(tmp_path):
    rirs.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_three_directories(corpus, tmp_path):
    rirs.prepare(corpus, tmp_path / "out")
    made = {path.name: Manifest.open(path) for path in (tmp_path / "out").iterdir() if (path / "wav.scp").is_file()}
    assert {name: len(manifest) for name, manifest in made.items()} == {
        "simulated_rirs": 6,
        "real_rirs": 2,
        "pointsource_noises": 2,
    }
    assert "mediumroom-Room002-00001" in made["simulated_rirs"].ids
    assert len(set(made["simulated_rirs"].column("utt2spk"))) == 6
    # The isotropic noise beside the responses is not in rir_list.
    assert list(made["real_rirs"].ids) == ["room1-RVB2014_type1_rir_room1", "room2-air_type1_air_phone_1"]


def test_of_several_microphones_the_first_is_taken(corpus, tmp_path):
    rirs.prepare(corpus / "RIRS_NOISES", tmp_path / "out")
    path = corpus / "RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_room1.wav"
    first = soundfile.read(path)[0][:, 0]
    taken = Manifest.open(tmp_path / "out" / "real_rirs").audio(0, sample_rate=16000)
    np.testing.assert_allclose(taken / np.abs(taken).max(), first / np.abs(first).max(), atol=1e-4)
    assert len(list((tmp_path / "out" / "audio").rglob("*.wav"))) == 1


def test_speech_can_be_reverberated_with_them(corpus, tmp_path):
    rirs.prepare(corpus, tmp_path / "out")
    speech = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    for name in ("simulated_rirs", "real_rirs"):
        augmenter = Augmenter(AugmentConfig(reverb_probability=1.0, reverb_dir=tmp_path / "out" / name))
        wet = augmenter(speech, np.random.default_rng(1), 16000)
        assert wet.shape == speech.shape
        assert np.abs(wet - speech).max() > 0.1


def test_rooms_are_chosen(corpus, tmp_path):
    rirs.prepare(corpus, tmp_path / "out", rirs.Config(rooms=("smallroom",)))
    assert len(Manifest.open(tmp_path / "out" / "simulated_rirs")) == 2
    for rooms in ((), ("hugeroom",)):
        with pytest.raises(ValueError, match="prep.rooms: .* choose from smallroom"):
            rirs.Config(rooms=rooms)


def test_parts_whose_folder_is_not_there_are_left_out(corpus, tmp_path, caplog):
    top = corpus / "RIRS_NOISES"
    for part in ("real_rirs_isotropic_noises", "pointsource_noises"):
        (top / part).rename(tmp_path / part)
    shutil.rmtree(top / "simulated_rirs" / "largeroom")
    rirs.prepare(corpus, tmp_path / "out", rirs.Config(rooms=("smallroom", "mediumroom")))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["simulated_rirs"]
    absent, numbers = caplog.messages
    assert absent.endswith("not there, so not written: real_rirs_isotropic_noises, pointsource_noises")
    assert "simulated_rirs 4 of 40,000;" in numbers
    with pytest.raises(ValueError, match="simulated_rirs/largeroom: not found"):
        rirs.prepare(corpus, tmp_path / "all")
    shutil.rmtree(top / "simulated_rirs")
    with pytest.raises(
        ValueError, match="holds none of simulated_rirs, real_rirs_isotropic_noises, pointsource_noises"
    ):
        rirs.prepare(corpus, tmp_path / "none")


def test_faults_are_named(corpus, tmp_path):
    listed = corpus / "RIRS_NOISES/real_rirs_isotropic_noises/rir_list"
    text = listed.read_text()
    for wrong, message in (
        (text.replace("air_type1_air_phone_1", "gone"), r"rir_list:2: .*gone\.wav is not there"),
        (text.replace("--rir-id", "--id"), "rir_list:1: not `--rir-id"),
    ):
        listed.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            rirs.prepare(corpus, tmp_path / message[9])
    listed.unlink()
    with pytest.raises(ValueError, match="rir_list: not found"):
        rirs.prepare(corpus, tmp_path / "none")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    rirs.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "simulated_rirs 6 of 60,000, real_rirs 2 of 325, pointsource_noises 2 of 843"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
