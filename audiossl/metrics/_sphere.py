"""Points on the unit sphere, where contrastive measures live."""

from __future__ import annotations

import numpy as np


def on_sphere(points: np.ndarray) -> np.ndarray:
    """Divide each row by its length, in float64: (point, dim). ValueError for one that is zero or not finite."""
    points = np.asarray(points, dtype=np.float64)
    length = np.linalg.norm(points, axis=-1, keepdims=True)
    odd = ~(np.isfinite(length) & (length > 0)).ravel()
    if odd.any():
        raise ValueError(f"point {int(odd.argmax())} has the length {length.ravel()[odd.argmax()]:g}; leave it out")
    unit: np.ndarray = points / length
    return unit
