"""What measures of an estimated waveform ask of it and of its reference."""

from __future__ import annotations

import numpy as np


def checked_pair(metric: str, estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, (sample,); ValueError for other shapes, for samples that are not finite, and for a silent reference."""
    found, wanted = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if found.ndim != 1 or found.shape != wanted.shape:
        raise ValueError(
            f"{metric}: an estimate of shape {found.shape} for a reference of shape {wanted.shape}; give (sample,) of as many"
        )
    for name, values in (("estimate", found), ("reference", wanted)):
        if not np.isfinite(values).all():
            place = int(np.argmin(np.isfinite(values)))
            raise ValueError(
                f"{metric}: sample {place} of the {name} is {values[place]}; check what made it, or leave it out"
            )
    if not wanted @ wanted:  # also what float64 cannot square
        raise ValueError(f"{metric}: a reference of {len(wanted)} samples is silent; leave it out")
    return found, wanted
