"""Pseudo-labels: spherical k-means, balanced on request, on embeddings that stay on disk."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.data.progress import progress
from audiossl.units.kmeans import NearestCentroid, kmeans_plus_plus
from audiossl.verification._vectors import vectors_of
from audiossl.verification.cosine import Cosine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from audiossl.verification.embeddings import Embeddings

_CELLS = 1 << 26  # of the matrix (row, cluster) of a block: 256 MB
_ROWS = 1 << 14
_SEEDING_ROWS = 20  # per cluster, of which k-means++ chooses
_EPSILON = (
    0.02  # weight of the transport's entropy beside the cosines: the smaller, the more alike the sizes, and the slower
)
_BALANCED = 0.01  # by which the mass of a cluster may differ from an equal one, as a part of it
_PASSES, _LAST_PASSES = (
    10,
    100,
)  # of Sinkhorn and Knopp at most: in an iteration, which begins where the last one ended; at the end
_SPLIT = 1e-2  # of the length: cosines of 1 - 5e-5 with the large one, which float32 can still tell apart


@dataclass(frozen=True)
class Clusters:
    """Outcome of spherical k-means.

    labels: (utterance,) int32, the cluster of each row of the embeddings. centroids: (cluster, dim) float32, of length 1. counts:
    (cluster,), utterances of each. cosine: mean of each utterance with the mean direction of its cluster. iterations: until nothing
    moved, or as many as were allowed.
    """

    labels: np.ndarray
    centroids: np.ndarray
    counts: np.ndarray
    cosine: float
    iterations: int


def cluster(
    embeddings: Embeddings, clusters: int, *, iterations: int, seed: int, balanced: bool = False, device: str = "cpu"
) -> Clusters:
    """Cluster utterances by the direction of their embeddings (Dhillon and Modha, 2001), from k-means++ seeds; the same bytes every time.

    Each iteration reads the matrix once, block by block; of several crops, the mean of their directions counts. faiss' own k-means would
    want all rows in memory, so these are its two steps, with the matrix product of the units. A cluster that loses all its utterances begins
    again beside a large one.

    balanced: label by the argmax of the transport plan of the cosines to the centroids, whose mass is alike in all clusters (Asano et al.,
    2020, who have log-probabilities of a classifier: our variant); the plan is made block by block from a number per cluster.
    ValueError where there are fewer utterances than clusters, and for an embedding that is zero or not finite.
    """
    if not 2 <= clusters <= len(embeddings):
        raise ValueError(
            f"{embeddings.path}: {len(embeddings)} utterances for {clusters} clusters; ask for 2 to {len(embeddings)}"
        )
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the OpenMP threads of the parent do not live on in a forked child
    rng = np.random.default_rng(seed)
    centroids = _seeds(embeddings, clusters, rng)
    labels = np.full(len(embeddings), -1, dtype=np.int32)
    offsets = np.zeros(clusters)
    done = 0
    for _ in progress(range(iterations), iterations, "k-means"):
        if balanced:
            offsets = _balance(embeddings, centroids, offsets, _PASSES, device)
        sums, counts, moved = _assign(embeddings, centroids, offsets, labels, device)
        done += 1
        if not moved:
            break
        centroids = _directions(sums, counts, centroids, rng)
    if balanced:
        offsets = _balance(embeddings, centroids, offsets, _LAST_PASSES, device)
    if balanced or moved:
        sums, counts, _ = _assign(embeddings, centroids, offsets, labels, device)
    # The sum of a cluster's unit vectors is as long as the sum of their cosines with its direction.
    cosine = float(np.linalg.norm(sums, axis=1).sum() / len(labels))
    return Clusters(labels, centroids, counts, cosine, done)


def _assign(
    embeddings: Embeddings, centroids: np.ndarray, offsets: np.ndarray, labels: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Write the cluster of each row into `labels`, the largest cosine plus offset.

    offsets: (cluster,). Returns sums (cluster, dim) float64, counts, and whether any label moved.
    """
    nearest, moved = NearestCentroid(centroids, device, offsets), False
    sums, counts = torch.zeros(centroids.shape, dtype=torch.float64), np.zeros(len(centroids), dtype=np.int64)
    for begin, points in _blocks(embeddings, _CELLS // len(centroids)):
        found = nearest(points)
        sums.index_add_(0, found, points.double())
        counts += torch.bincount(found, minlength=len(centroids)).numpy()
        block = labels[begin : begin + len(points)]
        moved |= bool((block != found.numpy()).any())
        block[:] = found.numpy()
    return sums.numpy(), counts, moved


def _balance(
    embeddings: Embeddings, centroids: np.ndarray, offsets: np.ndarray, passes: int, device: str
) -> np.ndarray:
    """Return offsets of the cosines, (cluster,), at which the softmax of each row over `_EPSILON` gives all clusters nearly the same mass.

    offsets: to begin with. Sinkhorn and Knopp's iteration in logarithms, rows and clusters in turn; each pass reads the matrix once.
    """
    equal = np.log(len(embeddings) / len(centroids))
    for _ in range(passes):
        nearest, mass = NearestCentroid(centroids, device, offsets), torch.full((len(centroids),), -torch.inf).double()
        for _, points in _blocks(embeddings, _CELLS // 4 // len(centroids)):  # four such matrices are held
            part = (nearest.scores(points) / _EPSILON).log_softmax(dim=1).logsumexp(dim=0)
            mass = torch.logaddexp(mass, part.cpu().double())
        excess = mass.numpy() - equal
        if np.abs(excess).max() < _BALANCED:
            break
        offsets = offsets - _EPSILON * excess
    return offsets


def _blocks(embeddings: Embeddings, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, directions (row, dim)), at most `rows` at a time."""
    step = max(1, min(_ROWS, rows))
    for begin in range(0, len(embeddings), step):
        yield begin, torch.from_numpy(_points(embeddings, np.arange(begin, min(begin + step, len(embeddings)))))


def _directions(sums: np.ndarray, counts: np.ndarray, before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean directions; empty clusters take those of the largest, a little aside. before: where sums cancel to nothing, what stays."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    centroids: np.ndarray = np.divide(sums, lengths, out=before.astype(np.float64), where=lengths > 0)
    empty = np.flatnonzero(counts == 0)
    large = np.argsort(-counts, kind="stable")[: len(empty)]
    aside = rng.standard_normal((len(large), sums.shape[1])) * _SPLIT / np.sqrt(sums.shape[1])
    centroids[empty[: len(large)]] = centroids[large] + aside
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return centroids.astype(np.float32)


def _seeds(embeddings: Embeddings, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ on a random part of the rows, which is all that is held: its cost does not grow with the corpus."""
    limit = min(len(embeddings), _SEEDING_ROWS * clusters)
    rows = np.sort(rng.choice(len(embeddings), limit, replace=False))
    return kmeans_plus_plus(_points(embeddings, rows), clusters, rng)


def _points(embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
    """(row, dim) float32, directions."""
    return vectors_of(embeddings, rows, _Directions()).matrix


class _Directions(Cosine):
    """The mean of several crops is brought to length 1 as well."""

    def points(self, embeddings: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return self.unit(super().points(embeddings))
