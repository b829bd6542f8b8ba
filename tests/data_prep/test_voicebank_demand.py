from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.audio import audio_info
from audiossl.data.manifest import Manifest

voicebank_demand = registry.get("data_prep", "voicebank_demand")


@pytest.fixture
def corpus(tmp_path):
    voicebank_demand.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_parts_have_their_speakers_and_clean_recordings(corpus, tmp_path):
    voicebank_demand.prepare(corpus, tmp_path / "out")
    speakers = {"train": {"p228", "p286"}, "dev": {"p226", "p287"}, "test": {"p232", "p257"}}
    for part, wanted in speakers.items():
        manifest = Manifest.open(tmp_path / "out" / part)
        assert set(manifest.column("utt2spk")) == wanted
        assert len(manifest) == 4
        folder = "testset_wav" if part == "test" else "trainset_28spk_wav"
        for index, name in enumerate(manifest.ids):
            assert manifest.column("utt2clean")[index] == str(corpus / f"clean_{folder}" / f"{name}.wav")
            assert audio_info(manifest.column("utt2clean")[index]).duration == manifest.durations[index]
            assert len(manifest.audio(index, sample_rate=16_000)) == 8000
    assert str(corpus / "noisy_testset_wav" / "p232_001.wav") in (tmp_path / "out" / "test" / "wav.scp").read_text()


def test_folders_of_the_archive_at_16_khz(corpus, tmp_path):
    for folder in list(corpus.iterdir()):
        folder.rename(corpus / f"{folder.name}_16k")
    voicebank_demand.prepare(corpus, tmp_path / "out")
    assert {path.name: len(Manifest.open(path)) for path in (tmp_path / "out").iterdir()} == {
        "train": 4,
        "dev": 4,
        "test": 4,
    }
    (corpus / "clean_testset_wav_16k").rename(corpus / "clean_testset_wav")
    with pytest.raises(ValueError, match="clean_testset_wav_16k: not found"):
        voicebank_demand.prepare(corpus, tmp_path / "again")


def test_what_is_missing_is_named(corpus, tmp_path):
    (corpus / "clean_trainset_28spk_wav" / "p228_002.wav").unlink()
    with pytest.raises(ValueError, match="clean_trainset_28spk_wav/p228_002.wav: not there, but"):
        voicebank_demand.prepare(corpus, tmp_path / "out")
    (corpus / "noisy_trainset_28spk_wav" / "p228_002.wav").rename(corpus / "clean_trainset_28spk_wav" / "p228_009.wav")
    with pytest.raises(ValueError, match="noisy_trainset_28spk_wav/p228_009.wav: not there, but"):
        voicebank_demand.prepare(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="clean_trainset_28spk_wav: not found"):
        voicebank_demand.prepare(tmp_path, tmp_path / "out")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    voicebank_demand.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "train 4 of 10,802, dev 4 of 770, test 4 of 824"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
