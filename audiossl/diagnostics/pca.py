"""Principal components of one layer's embeddings."""

from __future__ import annotations

import numpy as np


def principal_components(points: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Project on the directions of largest variance: (point, component) float64, and the share of the variance of each.

    points: (point, dim). No more components than min(point, dim) come out. The largest weight of each direction is positive, so that
    the same data give the same signs.
    """
    centred = np.asarray(points, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:components]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.where(directions[np.arange(len(directions)), largest] < 0, -1.0, 1.0)[:, None]
    variance = values**2
    shares = variance / variance.sum() if variance.any() else np.zeros_like(variance)
    return centred @ directions.T, shares[:components]
