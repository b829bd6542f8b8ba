from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.nn.cqt import CQT

RATE, HOP = 24000, 320
OPTIONS = {"num_bins": 48, "bins_per_octave": 12, "fmin": 110.0}  # up to 1661 Hz


def noise(samples, seed=0):
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def by_definition(waveform, frame, frequency, bins_per_octave):
    """One number from Brown's sum, in float64."""
    ratio = 2 ** (2 / bins_per_octave)
    length = (ratio + 1) / (ratio - 1) * RATE / frequency
    n = np.arange(-int(length / 2), int(length / 2) + 1)
    window = np.cos(np.pi * n / length) ** 2
    places = frame * HOP + n
    inside = (places >= 0) & (places < len(waveform))
    heard = np.where(inside, waveform[np.clip(places, 0, len(waveform) - 1)], 0.0)
    tone = np.exp(-2j * np.pi * frequency * n / RATE)
    return np.sqrt(length) * abs((heard * window * tone).sum()) / window.sum()


def test_against_the_definition():
    cqt, waveform = CQT(sample_rate=RATE, hop=HOP, **OPTIONS), noise(9000)
    found = cqt(waveform, 29)
    assert found.shape == (2, 29, 48)
    for row, frame, k in ((0, 0, 0), (0, 14, 0), (1, 28, 5), (1, 3, 11), (0, 20, 12), (1, 9, 47), (0, 27, 40)):
        expected = by_definition(waveform[row].double().numpy(), frame, 110 * 2 ** (k / 12), 12)
        assert found[row, frame, k].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("bins_per_octave", [12, 48])
def test_against_librosa(bins_per_octave):
    import librosa

    samples, bins = 48000, 3 * bins_per_octave
    rng = np.random.default_rng(0)
    notes = [220 * 2 ** (k / bins_per_octave) for k in (2, bins_per_octave + 3, 2 * bins_per_octave + 7)]
    times = np.arange(samples) / RATE
    wave = sum(np.sin(2 * np.pi * f * times) for f in notes) / 3 + 0.01 * rng.standard_normal(samples)
    theirs = np.abs(
        librosa.cqt(
            wave, sr=RATE, hop_length=HOP, fmin=220.0, n_bins=bins, bins_per_octave=bins_per_octave,
            pad_mode="constant", sparsity=0.0,
        )
    )  # fmt: skip
    cqt = CQT(sample_rate=RATE, hop=HOP, num_bins=bins, bins_per_octave=bins_per_octave, fmin=220.0)
    wanted = librosa.cqt_frequencies(bins, fmin=220.0, bins_per_octave=bins_per_octave)
    np.testing.assert_allclose(cqt.frequencies, wanted, rtol=1e-12)
    ours = cqt(torch.from_numpy(wave[None]), theirs.shape[1])[0].numpy().T
    # librosa computes lower octaves on a resampled waveform: exact to about a per cent of the loudest tone.
    assert np.abs(ours - theirs).max() < 0.015 * theirs.max()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9999


def test_a_tone_peaks_in_its_bin_with_its_amplitude():
    cqt = CQT(sample_rate=RATE, hop=HOP, **OPTIONS)
    for k in (0, 11, 12, 30, 47):
        tone = 0.5 * torch.sin(2 * np.pi * cqt.frequencies[k] * torch.arange(24000) / RATE)[None]
        frame = cqt(tone, 75)[0, 37]
        length = (2 ** (1 / 6) + 1) / (2 ** (1 / 6) - 1) * RATE / cqt.frequencies[k].item()
        assert frame.argmax() == k
        assert frame[k].item() == pytest.approx(np.sqrt(length) * 0.5 / 2, rel=2e-3)


def test_published_bins():
    cqt = CQT(sample_rate=RATE, hop=HOP)
    assert cqt.frequencies[[0, 48, 335]].tolist() == pytest.approx([32.7, 65.4, 32.7 * 2 ** (335 / 48)])
    assert len(cqt.octaves) == 7
    assert cqt.state_dict() == {}
    assert cqt(noise(24000), 74).shape == (2, 74, 336)


def test_padding_and_further_frames_change_nothing():
    cqt, waveform = CQT(sample_rate=RATE, hop=HOP, **OPTIONS), noise(9000)
    short = cqt(waveform[:, :5000], 15)
    padded = waveform.clone()
    padded[:, 5000:] = 0
    torch.testing.assert_close(cqt(padded, 15), short)
    torch.testing.assert_close(cqt(padded, 28)[:, :15], short)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_bins": 0}, "0 bins"), ({"num_bins": 500}, "bin 500 is at"), ({"fmin": 0.0}, "0.0 Hz")],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        CQT(sample_rate=RATE, hop=HOP, **options)
