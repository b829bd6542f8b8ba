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


def test_what_is_missing_is_named(corpus, tmp_path):
    (corpus / "clean_trainset_28spk_wav" / "p228_002.wav").unlink()
    with pytest.raises(ValueError, match="clean_trainset_28spk_wav/p228_002.wav: not there, but"):
        voicebank_demand.prepare(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="clean_trainset_28spk_wav: not found"):
        voicebank_demand.prepare(tmp_path, tmp_path / "out")
