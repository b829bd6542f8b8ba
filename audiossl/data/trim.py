"""Silence cut out of a recording, at its ends and inside, as the effect `silence` of SoX does it.

The loop over samples is compiled (see `data.compiled`).
"""

from __future__ import annotations

import numpy as np

from audiossl.data.compiled import compiled

_WINDOW = 50  # windows per second, of which the level is measured


def trim_silence(
    waveform: np.ndarray, sample_rate: int, *, threshold: float = 1e-3, seconds: float = 0.1
) -> np.ndarray:
    """Return what SoX's `silence 1 SECONDS THRESHOLD -1 SECONDS THRESHOLD` leaves of a recording; it may be nothing.

    waveform: (sample,) in [-1, 1]. The level is the root of the mean square of the last 20 ms; threshold: the share of full scale that it must exceed.
    The beginning goes until `seconds` are above it without a break, and so does what follows every `seconds` that are not; shorter pauses stay.
    """
    if threshold <= 0 or seconds <= 0:
        raise ValueError(f"silence below {threshold} for {seconds} s: both must be above 0")
    hold = max(int(seconds * sample_rate + 0.5), 1)
    kept = np.zeros(len(waveform), dtype=np.bool_)
    _keep(kept, waveform.astype(np.float64), sample_rate // _WINDOW, hold, threshold)
    return waveform[kept]


@compiled("void(boolean[::1], float64[::1], int64, int64, float64)")
def _keep(kept: np.ndarray, samples: np.ndarray, window: int, hold: int, threshold: float) -> None:
    """Mark the samples that stay. held: samples just heard that go or stay with what follows: sound that may end silence, or silence that may end sound."""
    squares = np.zeros(window)
    total, place, held, sounds = 0.0, 0, 0, False
    for index in range(len(samples)):
        square = samples[index] * samples[index]
        total += square - squares[place]
        squares[place] = square
        place = (place + 1) % window
        loud = max(total, 0.0) > window * threshold * threshold
        if loud == sounds:
            if sounds:  # a pause that was too short is over
                kept[index - held : index + 1] = True
            held = 0
            continue
        held += 1
        if held < hold:
            continue
        if loud:
            kept[index + 1 - held : index + 1] = True
        else:  # the level is measured from nothing again
            squares[:] = 0.0
            total, place = 0.0, 0
        sounds, held = loud, 0
    if sounds:
        kept[len(samples) - held :] = True
