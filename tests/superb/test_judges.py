"""What models say of converted voices, with models whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.superb import judges
from audiossl.train import run_finetune

RATE = 16_000
PITCH = {"target": 250, "x": 450, "y": 850}


def tone(pitch, rate=RATE, seconds=0.2):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def spectrum(waveform, lengths):
    """An embedding that hears pitch: power in bands of 100 Hz."""
    power = torch.fft.rfft(waveform[:, :3200]).abs()[:, :200] ** 2
    return power.view(len(waveform), -1, 20).sum(dim=2)


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(
        judges, "_embedder", lambda name: SimpleNamespace(sample_rate=RATE, min_samples=3200, embed=spectrum)
    )
    for name, pitch in PITCH.items():
        write_audio(tmp_path / f"{name}.wav", tone(pitch), RATE)
        write_audio(tmp_path / f"{name}2.wav", tone(pitch + 5), RATE)
    rows = [
        CorpusUtterance(f"{who}-{number}", f"{who}-{number}", tmp_path / f"{who}{number}.wav", who, columns={})
        for who in ("x", "y")
        for number in ("", "2")
    ]
    write_data_dir(rows, tmp_path / "data")
    return Manifest.open(tmp_path / "data")


def verified(manifest, waveforms, rows=(0, 1, 2, 3), rate=24_000):
    root = manifest.path.parent
    targets = [str(root / ("target.wav", "target2.wav")[row % 2]) for row in rows]
    return judges.verified(waveforms, rate, targets, manifest, rows, "any")


def test_what_sounds_as_the_target_is_accepted(manifest):
    near, far = tone(252, 24_000), tone(650, 24_000)
    assert verified(manifest, [near] * 4) == {"accept": 100.0}
    assert verified(manifest, [near, far, near, far]) == {"accept": 50.0}
    assert verified(manifest, [5 * far] * 4) == {"accept": 0.0}  # louder than a file can hold


def test_one_speaker_gives_no_threshold(manifest):
    assert verified(manifest, [tone(200, 24_000)] * 2, rows=(0, 1)) == {}


def test_threshold_is_where_errors_are_most_equal():
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    scores = rng.standard_normal(300) + labels
    found = judges.equal_error_threshold(scores, labels)

    def gap(threshold):
        return abs(np.mean(scores[labels] < threshold) - np.mean(scores[~labels] >= threshold))

    assert gap(found) == pytest.approx(min(gap(one) for one in scores))
    assert found not in scores


def test_words_are_compared_without_case_and_punctuation(monkeypatch):
    heard = ["IT'S A LAMP", "NO", None]
    levels = []

    def predict_all(module, source, config, *, on_bad):
        assert module == "model of exp/asr"
        for path, text in zip(source.ids, heard, strict=True):
            levels.append(np.abs(read_audio(path)).max())
            if text is not None:
                yield path, text

    monkeypatch.setattr(run_finetune, "predict_all", predict_all)
    monkeypatch.setattr(judges, "_recogniser", lambda name: f"model of {name}")
    waveforms = [tone(200), 7 * tone(200), tone(300)]
    scores = judges.recognised(waveforms, RATE, ["It's a lamp!", "Yes-no.", "Go up"], "exp/asr")
    assert scores == {"wer": pytest.approx(100 * 3 / 6), "cer": pytest.approx(100 * (3 + 5) / (10 + 5 + 5))}
    assert 0.9 < levels[1] <= 1.0
