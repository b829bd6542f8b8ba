"""The transform against librosa's and a sum over samples; its inverse on masked spectra against least squares."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.data.stft import BINS, MAX_HOP, WINDOW, check_hop, istft, num_frames, stft


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_a_bin_is_the_sum_of_its_definition():
    waveform, hop, frame, bin_ = noise(2000), 320, 3, 17
    samples = np.arange(WINDOW)
    piece = waveform.astype(np.float64)[frame * hop - WINDOW // 2 :][:WINDOW]
    window = np.sin(np.pi * samples / WINDOW) ** 2
    wanted = np.sum(piece * window * np.exp(-2j * np.pi * bin_ * samples / WINDOW))
    assert stft(waveform, hop)[frame, bin_] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("samples", "hop"), [(16_000, 320), (16_319, 320), (8001, 160), (700, 400)])
def test_it_is_the_transform_of_librosa(samples, hop):
    import librosa

    waveform = noise(samples)
    wanted = librosa.stft(waveform, n_fft=WINDOW, hop_length=hop, window="hann", center=True, pad_mode="reflect").T
    found = stft(waveform, hop)
    assert found.dtype == np.complex64
    assert found.shape == (num_frames(samples, hop), BINS) == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("samples", "hop"), [(16_000, 320), (16_319, 320), (8001, 160), (700, MAX_HOP), (4007, 1)])
def test_the_inverse_gives_the_recording_back(samples, hop):
    waveform = noise(samples)
    found = istft(stft(waveform, hop), hop, samples)
    assert found.dtype == np.float32
    sure = min(samples, (samples // hop) * hop + 204)
    np.testing.assert_allclose(found[:sure], waveform[:sure], atol=1e-5)
    assert samples - sure <= max(hop - 204, 0)
    assert np.abs(found[sure:]).max(initial=0.0) <= np.abs(waveform[sure:]).max(initial=0.0) + 1e-5  # it fades


def test_a_masked_spectrum_becomes_the_nearest_waveform():
    samples, hop = 900, 300
    masked = stft(noise(samples), hop) * np.random.default_rng(1).uniform(0, 2, (num_frames(samples, hop), BINS))
    window = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    pieces = np.fft.irfft(masked, WINDOW, axis=1)
    # Least squares: the windowed pieces of the waveform shall equal those of the spectrum.
    rows, wanted = [], []
    for frame, piece in enumerate(pieces):
        for place in range(WINDOW):
            sample = frame * hop - WINDOW // 2 + place
            if 0 <= sample < samples and window[place] > 0:
                row = np.zeros(samples)
                row[sample] = window[place]
                rows.append(row)
                wanted.append(piece[place])
    best = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    np.testing.assert_allclose(istft(masked, hop, samples), best, atol=1e-5)


def test_what_cannot_be_done_is_named():
    for hop in (0, MAX_HOP + 1):
        with pytest.raises(ValueError, match=f"hop of {hop} samples"):
            check_hop(hop)
    with pytest.raises(ValueError, match="256 samples are too few"):
        stft(noise(256), 160)
    with pytest.raises(ValueError, match=r"give \(4, 257\)"):
        istft(np.zeros((3, BINS)), 320, 1000)
