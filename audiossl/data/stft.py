"""Short-time Fourier transform and its inverse, for masks on the spectrum of a recording."""

from __future__ import annotations

import numpy as np

WINDOW = 512
"""Samples of a window, as many as of the transform."""

BINS = WINDOW // 2 + 1
MAX_HOP = 400
"""At larger ones so little of two windows overlaps that samples between them cannot be told."""

_LEAST = 0.01  # sum of squared windows; between two of them, MAX_HOP samples apart, there is more


def check_hop(hop: int) -> None:
    """Raise ValueError for a hop at which the transform cannot be inverted."""
    if not 1 <= hop <= MAX_HOP:
        raise ValueError(
            f"a hop of {hop} samples with windows of {WINDOW} cannot be inverted; give an upstream with a stride of {MAX_HOP} at most"
        )


def num_frames(samples: int, hop: int) -> int:
    """Frames of `stft`."""
    return 1 + samples // hop


def stft(waveform: np.ndarray, hop: int) -> np.ndarray:
    """Spectrum: (frame, bin) complex64. waveform: (sample,), more than half a window.

    Hann windows (periodic) of `WINDOW` samples, every `hop`; frame t is centred at sample t x hop, and the edges are mirrored.
    """
    if len(waveform) <= WINDOW // 2:
        raise ValueError(f"{len(waveform)} samples are too few for windows of {WINDOW}; leave the recording out")
    padded = np.pad(waveform.astype(np.float32, copy=False), WINDOW // 2, mode="reflect")
    pieces = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    return np.fft.rfft(pieces * _hann(), axis=1).astype(np.complex64)


def istft(spectrum: np.ndarray, hop: int, samples: int) -> np.ndarray:
    """Waveform (sample,) float32 whose spectrum is nearest in the squares (Griffin and Lim, 1984, eq. 6).

    spectrum: (frame, bin), any, of `num_frames(samples, hop)` frames. Exact on what `stft` gave but for the last `hop - 203` samples at most,
    which the last window hardly reaches or not at all: there it fades out, since dividing by almost nothing would end in a click.
    """
    check_hop(hop)
    frames = num_frames(samples, hop)
    if spectrum.shape != (frames, BINS):
        raise ValueError(
            f"a spectrum of shape {spectrum.shape} for {samples} samples at hop {hop}; give {(frames, BINS)}"
        )
    window = _hann()
    pieces = np.fft.irfft(spectrum, WINDOW, axis=1) * window
    total, weight = _overlapped(pieces, hop), _overlapped(np.broadcast_to(window**2, pieces.shape), hop)
    inside = slice(WINDOW // 2, WINDOW // 2 + samples)
    return np.asarray(total[inside] / np.maximum(weight[inside], _LEAST), np.float32)


def _hann() -> np.ndarray:
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW), np.float32)


def _overlapped(pieces: np.ndarray, hop: int) -> np.ndarray:
    """Sum of (frame, sample) pieces, each `hop` samples after the one before: a few shifted additions, not one per frame."""
    frames, blocks = len(pieces), -(-WINDOW // hop)
    cut = np.pad(pieces, ((0, 0), (0, blocks * hop - WINDOW))).reshape(frames, blocks, hop)
    total = np.zeros((frames + blocks, hop), np.result_type(pieces))
    for block in range(blocks):
        total[block : block + frames] += cut[:, block]
    return total.reshape(-1)
