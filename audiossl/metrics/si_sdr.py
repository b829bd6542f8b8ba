"""Scale-invariant signal-to-distortion ratio."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._waveforms import checked_pair

_BOUND = 100.0


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Power of what is like the reference over that of all else, in dB (Le Roux et al., 2019, eq. 5).

    a = <estimate, reference> / |reference|^2; 10 log10(|a reference|^2 / |a reference - estimate|^2). Means are not removed. Between -100 and 100:
    silence, which is like nothing, has -100. estimate, reference: (sample,). ValueError as in `checked_pair`.
    """
    found, wanted = checked_pair("SI-SDR", estimate, reference)
    power = float(wanted @ wanted)
    target = float(found @ wanted) / power * wanted
    signal, noise = float(target @ target), float(np.sum((target - found) ** 2))
    if signal == 0.0:
        return -_BOUND
    if noise == 0.0:
        return _BOUND
    return float(np.clip(10.0 * np.log10(signal / noise), -_BOUND, _BOUND))
