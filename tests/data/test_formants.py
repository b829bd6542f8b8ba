"""`move_formants`: where resonances go, and what stays."""

import numpy as np
import pytest
from scipy.signal import lfilter, welch

from audiossl.data.augment import AugmentConfig, Augmenter
from audiossl.data.formants import RESONANCES, move_formants

RATE = 16_000


def vowel(frequencies, pitch=120.0, seconds=1.0):
    """A pulse train through resonances of 100 Hz, (sample,) float32."""
    pulses = np.zeros(round(seconds * RATE))
    pulses[np.arange(0, len(pulses), RATE / pitch).astype(int)] = 1.0
    for frequency in frequencies:
        radius = np.exp(-np.pi * 100.0 / RATE)
        pulses = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2], pulses)
    return (0.1 * pulses / pulses.std()).astype(np.float32)


def resonance(waveform, low, high):
    """Hz, the centre of power between two frequencies, whatever the tilt of the source."""
    frequencies, power = welch(waveform.astype(np.float64), RATE, nperseg=1024)
    inside = (frequencies >= low) & (frequencies <= high)
    return float((frequencies[inside] * power[inside]).sum() / power[inside].sum())


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_resonance_goes_where_its_factor_says(place, factor):
    frequency = RESONANCES[place]
    moved = move_formants(vowel([frequency]), [factor] * 4, RATE)
    low, high = 0.6 * frequency, 1.5 * frequency
    expected = resonance(vowel([factor * frequency]), low, high) / resonance(vowel([frequency]), low, high)
    found = resonance(moved, low, high) / resonance(vowel([frequency]), low, high)
    # The envelope is a smooth one: a sharp peak leaves something where it was.
    assert np.log(found) == pytest.approx(np.log(expected), rel=0.35)


def test_each_region_has_a_factor_of_its_own():
    voice = vowel(RESONANCES)
    moved = move_formants(voice, [1.0, 1.25, 1.0, 1.0], RATE)
    assert resonance(moved, 1100, 2100) / resonance(voice, 1100, 2100) > 1.05
    assert resonance(moved, 300, 700) == pytest.approx(resonance(voice, 300, 700), rel=0.02)
    assert resonance(moved, 3200, 3900) == pytest.approx(resonance(voice, 3200, 3900), rel=0.02)


def test_pitch_timing_energy_and_length_stay():
    voice = vowel(RESONANCES, pitch=110.0)
    voice[:4000] = 0.0
    moved = move_formants(voice, [1.2, 0.85, 1.1, 0.9], RATE)
    assert (moved.dtype, moved.shape) == (np.float32, voice.shape)
    assert np.square(moved).sum() == pytest.approx(np.square(voice).sum(), rel=1e-4)
    assert np.abs(moved[:3400]).max() < 1e-4  # up to a window before the voice begins
    periods = [np.correlate(one[8000:10000], one[8000:8400])[60:300].argmax() + 60 for one in (voice, moved)]
    assert periods[0] == pytest.approx(RATE / 110, abs=1)
    assert periods[1] == pytest.approx(periods[0], abs=1)


@pytest.mark.parametrize("samples", [0, 1, 256, 257, 511, 513, 1000])
def test_any_length(samples):
    piece = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    moved = move_formants(piece, [1.2, 1.1, 1.0, 0.9], RATE)
    assert moved.shape == (samples,)
    assert np.isfinite(moved).all()
    assert (moved == piece).all() == (samples <= 256)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_nothing_moves_by_factors_of_one_and_silence_stays_silence(rate):
    voice = vowel(RESONANCES)
    assert move_formants(voice, [1.0] * 4, rate) is voice
    assert not move_formants(np.zeros(5000, np.float32), [1.2] * 4, rate).any()
    assert np.isfinite(move_formants(voice, [1.3, 0.7, 1.3, 0.7], rate)).all()


@pytest.mark.parametrize("factors", [[1.0] * 3, [1.0, 1.0, 1.0, 0.0]])
def test_wrong_factors(factors):
    with pytest.raises(ValueError, match="give 4 factors above 0"):
        move_formants(vowel(RESONANCES), factors, RATE)


def test_step_draws_each_factor_log_uniformly_and_keeps_time():
    config = AugmentConfig(formants_probability=0.5, formants_factor=(0.5, 2.0))
    assert config.keeps_time
    augmenter, voice = Augmenter(config), vowel(RESONANCES, seconds=0.1)
    changed = [(augmenter(voice, np.random.default_rng(seed), RATE) != voice).any() for seed in range(400)]
    assert np.mean(changed) == pytest.approx(0.5, abs=0.08)
    fixed = Augmenter(AugmentConfig(formants_probability=1.0, formants_factor=(1.2, 1.2)))
    np.testing.assert_allclose(
        fixed(voice, np.random.default_rng(0), RATE), move_formants(voice, [1.2] * 4, RATE), atol=1e-6
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"formants_factor": (1.2, 0.8)}, "is empty"),
        ({"formants_factor": (0.0, 1.0)}, "give factors above 0"),
        ({"formants_probability": 1.5}, "formants_probability is 1.5"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**wrong)
