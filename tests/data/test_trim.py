"""What is left without silence: as SoX left it once, as its definition says sample by sample, and what does not happen."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest

from audiossl.data.trim import trim_silence

LEVELS = (
    (0, 2000), (40, 1000), (300, 1500), (30, 3000), (400, 1700), (45, 1599), (5000, 900), (46, 1600), (60, 1500), (20, 500),
    (2000, 4000), (0, 1100), (60, 1700), (0, 1650), (9000, 3000), (47, 700),
)  # fmt: skip
"""(level in 16 bits, samples): sounds and pauses, longer and shorter than 0.1 s, above and below 0.1 % of full scale."""


def signal():
    number = np.concatenate([np.arange(count) for _, count in LEVELS])
    level = np.concatenate([np.full(count, level) for level, count in LEVELS])
    return (level * ((number * 7919) % 201 - 100) // 100).astype(np.int16)


def slowly(samples, rate, threshold, seconds):
    """Follow the recording with one list of what is not decided yet."""
    kept, waiting, sounds = [], [], False
    window = deque([0.0] * (rate // 50), maxlen=rate // 50)
    for sample in samples:
        window.append(float(sample) ** 2)
        loud = math.sqrt(sum(window) / len(window)) > threshold
        waiting.append(sample)
        if sounds and loud:
            kept += waiting
            waiting = []
        elif not sounds and not loud:
            waiting = []
        elif len(waiting) >= seconds * rate:
            kept += waiting if loud else []
            window.extend([0.0] * len(window) if not loud else [])
            waiting, sounds = [], loud
    return np.array(kept + (waiting if sounds else []))


def test_is_what_sox_leaves():
    # SoX 14.4.2: gain -3.0 silence 1 0.1 0.1% -1 0.1 0.1%, of 16-bit samples at 16 kHz to 32-bit floats.
    factor = 10 ** (-3 / 20)
    pcm = signal()
    left = trim_silence((factor / 32768 * pcm).astype(np.float32), 16_000)
    back = np.round(left / factor * 32768).astype(int)
    assert (len(pcm), len(left)) == (27_449, 14_311)
    assert (np.abs(back).sum(), (back * (np.arange(len(back)) % 97)).sum()) == (20_475_615, 7_000_598)


@pytest.mark.parametrize("seed", range(3))
def test_is_the_definition(seed):
    rng = np.random.default_rng(seed)
    levels = rng.choice([0.0, 0.001, 0.004, 0.3], 40)
    noise = np.concatenate([level * rng.standard_normal(int(rng.integers(5, 300))) for level in levels])
    left = trim_silence(noise.astype(np.float32), 1000, threshold=0.003, seconds=0.05)
    wanted = slowly(noise.astype(np.float32), 1000, 0.003, 0.05)
    assert 0 < len(left) < len(noise)
    np.testing.assert_array_equal(left, wanted)


def test_the_ends_of_little():
    silence, tone = np.zeros(4000, np.float32), np.full(4000, 0.1, np.float32)
    assert len(trim_silence(silence, 16_000)) == 0
    assert len(trim_silence(tone[:1599], 16_000)) == 0  # a sound of less than 0.1 s alone is no sound
    np.testing.assert_array_equal(trim_silence(tone, 16_000), tone)
    assert len(trim_silence(np.zeros(0, np.float32), 16_000)) == 0
    with pytest.raises(ValueError, match="must be above 0"):
        trim_silence(tone, 16_000, threshold=0.0)
