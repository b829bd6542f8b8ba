"""Other vocal tracts: resonances of a recording are moved, its pitch and its timing stay.

Our variant of vocal-tract-length perturbation (Jaitly and Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition", ICML 2013
workshop): there one factor warps the whole spectrum, harmonics too; here the spectrum's envelope alone is warped, and each of four regions by a
factor of its own, since tracts differ in shape, not only in length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.stft import BINS, WINDOW, istft, stft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESONANCES = (500.0, 1500.0, 2500.0, 3500.0)
"""Hz, of a uniform tube of 17.5 cm that is closed at one end: where each factor holds; between them it is interpolated."""

_HOP = WINDOW // 2
_PITCH_PERIOD = 3e-3  # s: what is finer in the spectrum than its inverse is harmonics, and no envelope
_LARGEST = 10.0  # a louder or quieter bin than this many times is noise that was lifted
_FLOOR = 1e-4  # of the loudest bin: -80 dB, below which an envelope is rounding


def move_formants(waveform: NDArray[np.float32], factors: Sequence[float], sample_rate: int) -> NDArray[np.float32]:
    """Move the resonances near 500, 1500, 2500 and 3500 Hz to `factors` times their frequency: (sample,), as long and as loud as before.

    factors: four numbers above 0; 1.2 makes a shorter tract. Silence stays silence; what is shorter than half a window of 32 ms (at 16 kHz) stays
    as it is.
    """
    if len(factors) != len(RESONANCES) or min(factors) <= 0:
        raise ValueError(f"{tuple(factors)}: give {len(RESONANCES)} factors above 0")
    energy = float(np.square(waveform).sum())
    if len(waveform) <= WINDOW // 2 or energy == 0 or set(factors) == {1.0}:
        return waveform
    spectrum = stft(waveform, _HOP)
    magnitude = np.abs(spectrum)
    lifter = _lifter(round(_PITCH_PERIOD * sample_rate))
    envelope = np.log(np.maximum(magnitude, _FLOOR * magnitude.max())) @ lifter  # natural logarithm
    low, share = _sources(tuple(map(float, factors)), sample_rate)
    moved = envelope[:, low] * (1 - share) + envelope[:, low + 1] * share
    limit = np.log(_LARGEST)
    spectrum *= np.exp(np.clip(moved - envelope, -limit, limit))
    changed = istft(spectrum, _HOP, len(waveform))
    return np.asarray(changed * np.float32(np.sqrt(energy / np.square(changed).sum())))


@lru_cache(maxsize=2)
def _lifter(quefrencies: int) -> NDArray[np.float32]:
    """What smooths a log spectrum over frequency, keeping its lowest quefrencies, in samples: (bin, bin)."""
    cepstra = np.fft.irfft(np.eye(BINS), WINDOW, axis=1)
    cepstra[:, quefrencies : WINDOW - quefrencies + 1] = 0.0
    return np.asarray(np.fft.rfft(cepstra, axis=1).real, np.float32)


def _sources(factors: tuple[float, ...], sample_rate: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where each bin takes its envelope from: (bin,) the bin below that place, and the share of the one above it."""
    frequencies = np.arange(BINS) * sample_rate / WINDOW
    moved = np.array(RESONANCES) * factors  # a resonance's factor is looked up where it goes to
    order = np.argsort(moved)
    factor = np.exp(np.interp(frequencies, moved[order], np.log(np.array(factors)[order])))
    places = np.minimum(frequencies / factor * WINDOW / sample_rate, BINS - 1.001)
    low = places.astype(np.intp)
    return low, np.asarray(places - low, np.float32)
