"""Scale-invariant signal-to-distortion ratio."""

from __future__ import annotations

import numpy as np

_BOUND = 100.0


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Power of what is like the reference over that of all else, in dB (Le Roux et al., 2019, eq. 5).

    a = <estimate, reference> / |reference|^2; 10 log10(|a reference|^2 / |a reference - estimate|^2). Means are not removed. Between -100 and 100:
    silence, which is like nothing, has -100. estimate, reference: (sample,). ValueError for other shapes and for a silent reference.
    """
    found, wanted = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if found.ndim != 1 or found.shape != wanted.shape:
        raise ValueError(
            f"an estimate of shape {found.shape} for a reference of shape {wanted.shape}; give (sample,) of as many"
        )
    power = float(wanted @ wanted)
    if power == 0.0:
        raise ValueError(
            f"a reference of {len(wanted)} samples is silent, so that nothing can be like it; leave it out"
        )
    target = float(found @ wanted) / power * wanted
    signal, noise = float(target @ target), float(np.sum((target - found) ** 2))
    if signal == 0.0:
        return -_BOUND
    if noise == 0.0:
        return _BOUND
    return float(np.clip(10.0 * np.log10(signal / noise), -_BOUND, _BOUND))
