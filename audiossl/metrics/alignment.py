"""How near two views of one thing lie to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._sphere import on_sphere

if TYPE_CHECKING:
    from numpy import ndarray


def alignment(first: ndarray, second: ndarray, *, power: float = 2.0) -> float:
    """Mean of |f(x) - f(y)| ^ power over positive pairs, on the unit sphere (Wang and Isola, 2020, section 4.1); 0 is best.

    first, second: (pair, dim), normalised here.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs of shapes {first.shape} and {second.shape}; give two views of each thing")
    distances = np.linalg.norm(on_sphere(first) - on_sphere(second), axis=1)
    return float((distances**power).mean())
