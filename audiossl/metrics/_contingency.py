"""Joint counts of phones and units: all that the frame-level measures of unit quality need, whatever the corpus' size."""

from __future__ import annotations

import numpy as np


def contingency(phones: np.ndarray, units: np.ndarray, *, num_phones: int, num_units: int) -> np.ndarray:
    """Count how often each phone meets each unit.

    phones, units: (frame,) indices. Returns (phone, unit) int64; counts of several utterances are added.
    """
    cells = phones.astype(np.int64) * num_units + units
    return np.bincount(cells, minlength=num_phones * num_units).reshape(num_phones, num_units)


def checked_counts(counts: np.ndarray) -> np.ndarray:
    """Return joint counts as float64; ValueError where they are not a table of counts with at least one frame."""
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or (table < 0).any() or table.sum() <= 0:
        raise ValueError(
            f"joint counts of shape {table.shape}, sum {table.sum():g}: give a (phone, unit) table with frames in it"
        )
    return table


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` (any shape, non-negative, sum > 0) are proportional to."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
