"""How well clusters stand apart, without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray

_ROWS = 512  # whose distances to all others are held at once


def silhouette(points: ndarray, labels: ndarray) -> float:
    """Mean over points of (b - a) / max(a, b) (Rousseeuw, 1987): 1 where clusters are far apart, below 0 where they are mixed.

    a: mean Euclidean distance to the others of the same cluster; b: to those of the nearest other one. points: (point, dim). labels:
    (point,). A point alone in its cluster counts 0, as does one whose distances are all 0. ValueError for fewer than two clusters.
    """
    from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

    names, cluster = np.unique(labels, return_inverse=True)
    if len(names) < 2 or len(points) != len(labels):
        raise ValueError(f"{len(points)} points in {len(names)} clusters by {len(labels)} labels; give at least two")
    sizes = np.bincount(cluster)
    member = np.eye(len(names))[cluster]  # (point, cluster)
    total = 0.0
    for start in range(0, len(points), _ROWS):
        own = cluster[start : start + _ROWS]
        row = np.arange(len(own))
        sums = cdist(points[start : start + _ROWS], points) @ member  # (row, cluster)
        within = sums[row, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[row, own] = np.inf
        between = means.min(axis=1)
        larger = np.maximum(within, between)
        scores = np.divide(between - within, larger, out=np.zeros(len(own)), where=larger > 0)
        total += float(scores[sizes[own] > 1].sum())
    return total / len(points)
