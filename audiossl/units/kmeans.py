"""k-means: k-means++ seeding, Lloyd's iterations by faiss, nearest centroids by one matrix product.

faiss' own random start ends about a third worse in inertia than k-means++ does, so the seeds are ours.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

SEEDING_POINTS_PER_CLUSTER = 100
SEEDING_MIN_POINTS = 20_000
_CHUNK = 65_536


@dataclass(frozen=True)
class Clustering:
    """The outcome of k-means.

    centroids: (cluster, dim) float32. inertia: mean squared distance of a point to its centroid. counts: (cluster,)
    points per centroid.
    """

    centroids: np.ndarray
    inertia: float
    counts: np.ndarray


def kmeans(points: np.ndarray, clusters: int, *, iterations: int, redo: int, seed: int) -> Clustering:
    """Lloyd's k-means from k-means++ seeds; the best in inertia of `redo` starts.

    points: (point, dim) float32, C-contiguous. Same arguments, same bytes. During the iterations faiss re-seeds an empty
    cluster beside a large one. Start r draws from the seed (seed, r).
    """
    if len(points) < clusters:
        raise ValueError(f"{len(points)} frames for {clusters} clusters; give more data or fewer clusters")
    if not np.isfinite(points).all():
        raise ValueError("features hold nan or infinity; run `audiossl data validate` and check the encoder")
    best: Clustering | None = None
    for start in range(redo):
        rng = np.random.default_rng([seed, start])
        centroids = _lloyd(points, _seeds(points, clusters, rng), iterations, seed)
        found = evaluate(points, centroids)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None, "redo is at least 1"
    return best


def kmeans_plus_plus(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Seed k-means: each next centre is drawn with probability proportional to its squared distance from the chosen ones.

    Arthur & Vassilvitskii (2007), in the greedy form: of 2 + log(clusters) draws the one that lowers
    the inertia most is kept. points: (point, dim) float32. Returns (cluster, dim) float32, rows of `points`.
    """
    num_trials = 2 + int(np.log(clusters))
    x = points - points.mean(axis=0)  # smaller numbers cancel less in ||x||^2 - 2 x.c + ||c||^2
    squares = np.square(x).sum(axis=1)

    def distances(rows: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.maximum(squares[rows, None] - 2 * (x[rows] @ x.T) + squares, 0)  # (trial, point)
        return result

    chosen = np.empty(clusters, dtype=np.int64)
    chosen[0] = rng.integers(len(x))
    nearest = distances(chosen[:1])[0]
    for step in range(1, clusters):
        mass = np.cumsum(nearest, dtype=np.float64)
        draws = rng.random(num_trials) * mass[-1]
        trials = np.minimum(np.searchsorted(mass, draws, side="right"), len(x) - 1)
        candidates = np.minimum(distances(trials), nearest)
        winner = int(candidates.sum(axis=1, dtype=np.float64).argmin())
        chosen[step], nearest = trials[winner], candidates[winner]
    return np.ascontiguousarray(points[chosen])


def evaluate(points: np.ndarray, centroids: np.ndarray) -> Clustering:
    """Assign all points and return counts and inertia, in chunks."""
    nearest = NearestCentroid(centroids)
    counts = np.zeros(len(centroids), dtype=np.int64)
    total = 0.0
    for begin in range(0, len(points), _CHUNK):
        chunk = points[begin : begin + _CHUNK]
        labels = nearest(torch.from_numpy(chunk)).numpy()
        counts += np.bincount(labels, minlength=len(centroids))
        total += float(np.square(chunk - centroids[labels], dtype=np.float64).sum())
    return Clustering(centroids, total / len(points), counts)


class NearestCentroid:
    """Index of the nearest centroid by one matrix product: the largest x.c - ||c||^2 / 2.

    Both sides are taken relative to the centroids' mean, folded into the bias, so that a common offset (the first
    cepstrum's is large) costs no digits. offsets: (cluster,), added to that number of each.
    """

    def __init__(self, centroids: np.ndarray, device: str = "cpu", offsets: np.ndarray | float = 0.0) -> None:
        exact = centroids.astype(np.float64)
        mean = exact.mean(axis=0)
        centred = exact - mean
        bias = -(centred @ mean) - np.square(centred).sum(axis=1) / 2 + offsets
        self._matrix = torch.from_numpy(centred.T.astype(np.float32)).contiguous().to(device)  # (dim, cluster)
        self._bias = torch.from_numpy(bias.astype(np.float32)).to(device)

    def __call__(self, features: Tensor) -> Tensor:
        """features: (frame, dim) float32. Returns (frame,) int64 labels, on the CPU."""
        return self.scores(features).argmax(dim=1).cpu()

    def scores(self, features: Tensor) -> Tensor:
        """(frame, cluster) x.c - ||c||^2 / 2 but for a number per frame, on the device. features: (frame, dim) float32."""
        return torch.addmm(self._bias, features.to(self._matrix.device), self._matrix)


def _seeds(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ on a random part of the points: enough for the seeds, and its cost does not grow with the corpus."""
    limit = max(SEEDING_MIN_POINTS, SEEDING_POINTS_PER_CLUSTER * clusters)
    if len(points) > limit:
        points = points[np.sort(rng.choice(len(points), limit, replace=False))]
    return kmeans_plus_plus(points, clusters, rng)


def _lloyd(points: np.ndarray, seeds: np.ndarray, iterations: int, seed: int) -> np.ndarray:
    faiss = _faiss()
    clusters, dim = seeds.shape
    trainer = faiss.Kmeans(
        dim,
        clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,  # how many points are enough was judged before
        max_points_per_centroid=len(points),  # the sample was drawn to size: faiss must not draw again
    )
    trainer.train(points, init_centroids=seeds)
    return np.ascontiguousarray(trainer.centroids, dtype=np.float32)


def _faiss() -> Any:
    import faiss

    if multiprocessing.parent_process() is not None:
        # The OpenMP threads of the parent do not live on in a forked child: a second thread would wait for them for ever.
        faiss.omp_set_num_threads(1)
        torch.set_num_threads(1)
    return faiss
