"""How evenly representations cover the sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._sphere import on_sphere

if TYPE_CHECKING:
    from numpy import ndarray

_ROWS = 512


def uniformity(points: ndarray, *, t: float = 2.0) -> float:
    """Logarithm of the mean of exp(-t |x - y|^2) over all pairs of points on the unit sphere (Wang and Isola, 2020, section 4.1).

    points: (point, dim), at least 2, normalised here. 0 where all are one, down to -2 t in the limit of high dimensions.
    """
    if len(points) < 2:
        raise ValueError(f"{len(points)} point has no pair; give at least two")
    unit = on_sphere(points)
    total = 0.0
    for start in range(0, len(unit), _ROWS):
        cosines = unit[start : start + _ROWS] @ unit.T
        total += float(np.exp(2 * t * (np.minimum(cosines, 1.0) - 1)).sum())
    pairs = len(unit) * (len(unit) - 1)
    return float(np.log(max(total - len(unit), np.finfo(np.float64).tiny) / pairs))  # less each point with itself
