"""Mel-cepstra against spectra that are built from known ones, the distortion against a search over alignments in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics import mel_cepstral_distortion as module
from audiossl.metrics.mel_cepstral_distortion import ALPHA, ORDER, mel_cepstra, mel_cepstral_distortion

RATE = 16_000


def test_mel_cepstra_are_those_that_a_spectrum_was_made_of():
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((3, ORDER + 1)) / (1 + np.arange(ORDER + 1))
    frequency = np.linspace(0, np.pi, 513)
    # The phase of the all-pass (z^-1 - alpha) / (1 - alpha z^-1).
    warped = frequency + 2 * np.arctan2(ALPHA * np.sin(frequency), 1 - ALPHA * np.cos(frequency))
    log_magnitude = wanted @ np.cos(np.outer(np.arange(ORDER + 1), warped))
    np.testing.assert_allclose(mel_cepstra(np.exp(2 * log_magnitude)), wanted, atol=1e-6)


def best_alignment(distances):
    """Mean distance over the cells of the path of least sum."""
    rows, columns = distances.shape
    best = {}
    for i in range(rows):
        for j in range(columns):
            before = [best[at] for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if at in best]
            total, cells = min(before, key=lambda way: way[0]) if before else (0.0, 0)
            best[i, j] = (total + distances[i, j], cells + 1)
    total, cells = best[rows - 1, columns - 1]
    return total / cells


def voice(seed, seconds=0.4):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    return (0.1 * tone * np.abs(np.sin(7 * time)) + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def test_distortion_is_that_of_the_best_alignment():
    one, other = voice(0), voice(1, 0.3) * 0.5
    ours, theirs = (module._sounding(wave, RATE) for wave in (one, other))
    with_pause = np.concatenate([one, np.zeros(4000, np.float32)])
    assert len(ours) <= len(module._sounding(with_pause, RATE)) < len(ours) + 10  # of 50 frames more
    distances = np.array([[10 / np.log(10) * np.sqrt(2 * ((a - b) ** 2).sum()) for b in theirs] for a in ours])
    assert mel_cepstral_distortion(one, other, RATE) == pytest.approx(best_alignment(distances), rel=1e-9)


def test_the_same_is_not_distorted_and_worse_is_more():
    one = voice(0)
    assert mel_cepstral_distortion(one, one, RATE) == 0.0
    rng = np.random.default_rng(2)
    noises = [mel_cepstral_distortion(one + level * rng.standard_normal(len(one)), one, RATE) for level in (0.01, 0.1)]
    assert 0 < noises[0] < noises[1]


def test_silence_has_a_distortion_and_nothing_has_none():
    assert np.isfinite(mel_cepstral_distortion(np.zeros(3000, np.float32), voice(0), RATE))
    with pytest.raises(ValueError, match="no samples"):
        mel_cepstral_distortion(np.zeros(0, np.float32), voice(0), RATE)
