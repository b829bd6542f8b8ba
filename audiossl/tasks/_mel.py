"""Log-mel spectra that voices are converted to, and waveforms from them; free of torch, so that processes which score start quickly."""

from __future__ import annotations

from functools import cache

import numpy as np

SAMPLE_RATE, BINS, HOP = 24_000, 80, 256
"""Of the spectra: Hz, channels from 80 to 7600 Hz, samples from frame to frame."""

_WINDOW, _LEAST, _ITERATIONS = 1024, 1e-10, 64


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Decimal logarithm of mel magnitudes: (frame, BINS) float32. waveform: (sample,) at `SAMPLE_RATE`, at least half a window."""
    import librosa

    if len(waveform) <= _WINDOW // 2:
        raise ValueError(f"{len(waveform)} samples are too few for windows of {_WINDOW}; leave the recording out")
    spectrum = librosa.stft(waveform, n_fft=_WINDOW, hop_length=HOP, pad_mode="reflect")
    return np.asarray(np.log10(np.maximum(np.abs(spectrum).T @ _filters().T, _LEAST)), np.float32)


def waveform_of(mel: np.ndarray) -> np.ndarray:
    """Waveform (sample,) float32 of a log-mel spectrum (frame, BINS): filters inverted in the least squares, phases by Griffin and Lim (1984), 64 rounds.

    Our variant: published scores have a neural vocoder here. Always the same for the same spectrum.
    """
    import librosa

    lacking = max(_WINDOW // HOP + 1 - len(mel), 0)  # one window at least
    mel = np.pad(mel.astype(np.float64), ((0, lacking), (0, 0)), mode="edge")
    magnitudes = np.maximum(10.0 ** np.clip(mel, -10.0, 4.0) @ _inverse().T, _LEAST)
    waveform = librosa.griffinlim(magnitudes.T, n_iter=_ITERATIONS, hop_length=HOP, n_fft=_WINDOW, random_state=0)
    return np.asarray(waveform, np.float32)


@cache
def _filters() -> np.ndarray:
    from librosa.filters import mel

    return np.asarray(mel(sr=SAMPLE_RATE, n_fft=_WINDOW, n_mels=BINS, fmin=80.0, fmax=7600.0))


@cache
def _inverse() -> np.ndarray:
    return np.asarray(np.linalg.pinv(_filters()))
