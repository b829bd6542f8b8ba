"""Mel-cepstral distortion."""

from __future__ import annotations

from functools import cache

import numpy as np

ORDER, ALPHA, SHIFT_SECONDS = 39, 0.466, 0.005
_WINDOW, _CUTOFF_HZ, _TAPS = 1024, 70.0, 255
_LEAST_DB = -20.0  # quieter frames, relative to the mean power, are pauses
_FLOOR = 1e-12


def mel_cepstral_distortion(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Mel-cepstral distortion in dB between two ways of saying the same (Kubichek, 1993), aligned in time.

    As SUPERB-SG measures voice conversion: a low cut at 70 Hz, mel-cepstra of order 39 (alpha 0.466, c0 among them) every 5 ms, frames above -20 dB of the
    mean power, the mean over the cells of the best alignment of 10 / ln 10 sqrt(2 sum of squared differences). Our variant: cepstra are of the power spectrum of
    1024 samples, where there the envelope is WORLD's, and the alignment is exact; so values are not those of published tables. estimate, reference: (sample,).
    """
    from librosa.sequence import dtw
    from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

    ours, theirs = (_sounding(wave, sample_rate) for wave in (estimate, reference))
    distances = cdist(ours, theirs)
    _, path = dtw(C=distances, backtrack=True)
    return float(10.0 / np.log(10.0) * np.sqrt(2.0) * distances[path[:, 0], path[:, 1]].mean())


def mel_cepstra(power: np.ndarray) -> np.ndarray:
    """Mel-cepstra (frame, ORDER + 1) of power spectra (frame, bin): of log |X| as a sum of cosines of the warped frequency (Tokuda et al., 1994)."""
    cepstra = np.fft.irfft(np.log(power), axis=1)[:, : power.shape[1]]
    cepstra[:, 0] /= 2.0
    cepstra[:, -1] /= 2.0  # which the inverse transform has once, where all between it has twice
    return np.asarray(cepstra @ _warp(power.shape[1]).T)


@cache
def _warp(count: int) -> np.ndarray:
    """Frequency transform as a matrix, (ORDER + 1, count): the recursion of Oppenheim and Johnson (1972) on all unit vectors at once."""
    columns, found = np.eye(count), np.zeros((ORDER + 1, count))
    for column in columns[::-1]:
        before = found.copy()
        found[0] = column + ALPHA * before[0]
        found[1] = (1.0 - ALPHA**2) * before[0] + ALPHA * before[1]
        for k in range(2, ORDER + 1):
            found[k] = before[k - 1] + ALPHA * (before[k] - found[k - 1])
    return found


def _sounding(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mel-cepstra of the frames that are no pause."""
    from scipy.signal import fftconvolve, firwin  # type: ignore[import-untyped]

    if not len(waveform):
        raise ValueError("mel-cepstral distortion: a recording has no samples; leave it out")
    # As loud as 16-bit samples: c0 is of no account for pauses, which are relative.
    cut = fftconvolve(waveform.astype(np.float64), firwin(_TAPS, 2.0 * _CUTOFF_HZ / sample_rate, pass_zero=False))
    padded = np.pad(cut[: len(waveform)], _WINDOW // 2)
    hop = round(SHIFT_SECONDS * sample_rate)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop]
    power = np.abs(np.fft.rfft(pieces * np.hanning(_WINDOW), axis=1)) ** 2 + _FLOOR
    level = power.sum(axis=1)
    return mel_cepstra(power[10.0 * np.log10(level / level.mean()) > _LEAST_DB])
