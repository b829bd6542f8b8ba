"""Residual quantisation: each codebook holds clusters of what the ones before it leave over, as in the codecs whose codes MERT predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.units.kmeans import NearestCentroid, kmeans

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from audiossl.units.kmeans import Clustering

_CHUNK = 65_536


def residual_kmeans(
    points: np.ndarray,
    clusters: int,
    codebooks: int,
    *,
    iterations: int,
    redo: int,
    seed: int,
    log: Callable[[str], None],
) -> list[Clustering]:
    """Fit `codebooks` codebooks of `clusters` codes one after the other; see `kmeans`. One codebook is plain k-means.

    points: (point, dim) float32, C-contiguous; with more than one codebook they become what remains of them, in place, so that nothing is copied.
    Each `inertia` is the mean square of what remains after its codebook.
    """
    found: list[Clustering] = []
    for number in range(codebooks):
        found.append(kmeans(points, clusters, iterations=iterations, redo=redo, seed=seed))
        if codebooks > 1:
            log(f"codebook {number + 1} of {codebooks}: mean squared error {found[-1].inertia:.4g}")
            _subtract(points, found[-1].centroids)
    return found


def _subtract(points: np.ndarray, centroids: np.ndarray) -> None:
    """Take the nearest centroid from each point, in place."""
    nearest = NearestCentroid(centroids)
    for begin in range(0, len(points), _CHUNK):
        chunk = points[begin : begin + _CHUNK]
        chunk -= centroids[nearest(torch.from_numpy(chunk)).numpy()]


class ResidualQuantiser:
    """Codes of frames in each of several codebooks: the nearest centroid, subtracted, the nearest of the next one, and so on.

    codebooks: (codebook, code, dim) float32. device: where the frames are compared.
    """

    def __init__(self, codebooks: np.ndarray, device: str = "cpu") -> None:
        self._centroids = torch.from_numpy(codebooks).to(device)
        self._nearest = [NearestCentroid(centroids, device) for centroids in codebooks]

    def __call__(self, features: Tensor) -> Tensor:
        """features: (frame, dim) float32. Returns (codebook, frame) int64, on the CPU."""
        left = features.to(self._centroids.device)
        codes = []
        for nearest, centroids in zip(self._nearest, self._centroids, strict=True):
            codes.append(nearest(left))
            left = left - centroids[codes[-1].to(left.device)]
        return torch.stack(codes)
