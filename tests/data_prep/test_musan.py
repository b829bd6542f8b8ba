from __future__ import annotations

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.kaldi import read_table
from audiossl.data.manifest import Manifest

musan = registry.get("data_prep", "musan")


@pytest.fixture
def corpus(tmp_path):
    musan.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_three_directories_of_segments(corpus, tmp_path):
    musan.prepare(corpus, tmp_path / "out")
    made = {name: Manifest.open(tmp_path / "out" / name) for name in ("music", "noise", "speech")}
    assert {name: len(manifest) for name, manifest in made.items()} == {"music": 3, "noise": 2, "speech": 2}
    assert made["music"].durations == pytest.approx([12.5, 12.5, 2.0])
    assert list(made["music"].column("utt2spk"))[:2] == ["music-fma-0000"] * 2
    whole = read_audio(corpus / "musan/music/fma/music-fma-0000.wav")
    pieces = [made["music"].audio(index, sample_rate=16000) for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_length_of_segments_and_the_folder_itself(corpus, tmp_path):
    musan.prepare(corpus / "musan", tmp_path / "out", musan.Config(segment_seconds=1.0))
    durations = Manifest.open(tmp_path / "out" / "music").durations
    assert len(durations) == 27
    assert durations == pytest.approx(np.ones(27), abs=1e-4)
    with pytest.raises(ValueError, match="segment_seconds: 0.0 is not positive"):
        musan.Config(segment_seconds=0.0)


def test_a_folder_alone(corpus, tmp_path):
    (corpus / "musan/noise/sound-bible").mkdir()
    write_audio(corpus / "musan/noise/sound-bible/noise-sound-bible-0000.wav", np.full(16000, 0.1), 16000)
    parts = ("noise", "noise/free-sound")
    musan.prepare(corpus, tmp_path / "out", musan.Config(parts=parts))
    made = {path.name: len(Manifest.open(path)) for path in (tmp_path / "out").iterdir()}
    assert made == {"noise": 3, "noise-free-sound": 2}
    with pytest.raises(ValueError, match="noise/none: not found"):
        musan.prepare(corpus, tmp_path / "none", musan.Config(parts=("noise/none",)))


@pytest.mark.parametrize("parts", [(), ("rirs",), ("noise/..",)])
def test_parts_that_are_none(parts):
    with pytest.raises(ValueError, match=r"prep.parts: .*: choose from music, noise, speech and folders in them"):
        musan.Config(parts=parts)


def test_digital_silence_is_left_out(corpus, tmp_path):
    path = corpus / "musan/noise/free-sound/noise-free-sound-0000.wav"
    waveform = read_audio(path)  # 3 s
    waveform[16000:32000] = 0.0
    write_audio(path, waveform, 16000)
    write_audio(path.with_name("noise-free-sound-0009.wav"), np.zeros(16000), 16000)
    musan.prepare(corpus, tmp_path / "out", musan.Config(segment_seconds=1.0))
    rows = [row[1] for row in read_table(tmp_path / "out" / "noise" / "segments")]
    assert rows == [f"noise-free-sound-{name}" for name in ("0000-0000", "0000-0002", "0001-0000", "0001-0001")]


def test_faults_are_named(corpus, tmp_path):
    for path in (corpus / "musan" / "speech").rglob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match="speech: holds no .wav; unpack it again"):
        musan.prepare(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="music: not found"):
        musan.prepare(corpus / "musan" / "music", tmp_path / "out")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    musan.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "music 2 of 660, noise 2 of 930, speech 2 of 426"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
