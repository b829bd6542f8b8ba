"""An augmented copy of a data directory: same utterances and tables, other audio, and only the audio that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from kaldi_dirs import RATE, make, tone

from audiossl.data.audio import write_audio
from audiossl.data.augment import AugmentConfig
from audiossl.data.augmented import augment_directory
from audiossl.data.edit import combine
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults
from audiossl.data.writer import CorpusUtterance, write_data_dir

KEPT = ("text", "utt2spk", "spk2utt", "utt2lang", "phones.ctm", "units/km4", "trials")


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


@pytest.fixture
def noise(tmp_path):
    (tmp_path / "noise").mkdir()
    white = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    write_audio(tmp_path / "noise" / "n.flac", white, RATE)
    write_data_dir([CorpusUtterance("n", "n", tmp_path / "noise" / "n.flac", "n")], tmp_path / "noises")
    return tmp_path / "noises"


def waveforms(folder):
    manifest = Manifest.open(folder)
    return [manifest.audio(index, sample_rate=RATE) for index in range(len(manifest))]


def test_noise_at_the_wanted_ratio_and_all_tables(tmp_path, data, noise):
    config = AugmentConfig(noise_probability=1.0, noise_dirs=(noise,), noise_snr=((20.0, 20.0),))
    out = tmp_path / "noisy"
    assert augment_directory(data, out, config, seed=0, sample_rate=RATE) == []
    assert list(faults(out)) == []
    for name in KEPT:
        assert (out / name).read_text() == (data / name).read_text()
    assert not (out / "segments").exists()
    for clean, noisy in zip(waveforms(data), waveforms(out), strict=True):
        ratio = 10 * np.log10(np.square(clean).sum() / np.square(noisy - clean).sum())
        assert ratio == pytest.approx(20.0, abs=0.01)


def test_depends_on_the_seed_alone(tmp_path, data, noise):
    config = AugmentConfig(noise_probability=0.5, noise_dirs=(noise,), gain_probability=0.5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        augment_directory(data, tmp_path / name, config, seed=seed, sample_rate=RATE)
    audio = {name: b"".join(p.read_bytes() for p in sorted((tmp_path / name / "audio").iterdir())) for name in "abc"}
    assert audio["a"] == audio["b"] != audio["c"]


def test_copies_with_a_prefix_can_be_combined(tmp_path, data, noise):
    config = AugmentConfig(noise_probability=1.0, noise_dirs=(noise,))
    out = tmp_path / "noisy"
    left = augment_directory(data, out, config, seed=0, sample_rate=RATE, prefix="n-")
    assert left == ["trials is left out: ids have a prefix"]
    assert list(faults(out)) == []
    plain, made = Manifest.open(data), Manifest.open(out)
    assert list(made.ids) == [f"n-{utterance}" for utterance in plain.ids]
    assert list(made.column("utt2spk")) == [f"n-{speaker}" for speaker in plain.column("utt2spk")]
    for name in ("text", "utt2lang", "units/km4"):
        assert list(made.column(name)) == list(plain.column(name))
    phones = (data / "phones.ctm").read_text().splitlines()
    assert (out / "phones.ctm").read_text().splitlines() == [f"n-{line}" for line in phones]
    combine([data, out], tmp_path / "both")
    assert list(faults(tmp_path / "both")) == []
    assert len(Manifest.open(tmp_path / "both")) == 2 * len(plain)


def test_another_speed_leaves_times_behind(tmp_path, data):
    config = AugmentConfig(speed_probability=1.0, speed_factors=(0.5,))
    lines = (f"{line.split()[0]} a 0 0.5\n" for line in (data / "utt2dur").read_text().splitlines())
    (data / "utt2turns").write_text("".join(lines))
    said = augment_directory(data, tmp_path / "slow", config, seed=0, sample_rate=RATE)
    assert said == [f"{name} is left out: the speed changes" for name in ("units/km4", "utt2turns", "phones.ctm")]
    assert Manifest.open(tmp_path / "slow").durations == pytest.approx(2.0)
    assert list(faults(tmp_path / "slow")) == []


def test_what_is_too_loud_is_made_quieter(tmp_path, data):
    config = AugmentConfig(gain_probability=1.0, gain_db=(12.0, 12.0))
    augment_directory(data, tmp_path / "loud", config, seed=0, sample_rate=RATE)
    for clean, loud in zip(waveforms(data), waveforms(tmp_path / "loud"), strict=True):
        assert np.abs(loud - clean / np.abs(clean).max()).max() < 1e-3  # and not clipped at four times its 0.5


def test_nothing_is_written_where_something_is_wrong(tmp_path, data):
    with pytest.raises(ValueError, match="nothing would be augmented; give a probability"):
        augment_directory(data, tmp_path / "out", AugmentConfig(), seed=0, sample_rate=RATE)
    write_audio(tmp_path / "audio" / "s1.wav", tone(1.0), RATE)  # two of its three segments are gone
    config = AugmentConfig(gain_probability=1.0)
    with pytest.raises(ValueError, match="s1.wav"):
        augment_directory(data, tmp_path / "out", config, seed=0, sample_rate=RATE)
    assert not list(tmp_path.glob("out*"))


def test_an_id_with_a_slash(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1.0), RATE)
    write_data_dir([CorpusUtterance("a/b", "a/b", tmp_path / "a.wav", "a")], tmp_path / "data")
    augment_directory(
        tmp_path / "data", tmp_path / "out", AugmentConfig(gain_probability=1.0), seed=0, sample_rate=RATE
    )
    assert list(Manifest.open(tmp_path / "out").ids) == ["a/b"]
    assert list(faults(tmp_path / "out")) == []
