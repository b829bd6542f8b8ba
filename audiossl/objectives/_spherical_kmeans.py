"""k-means on directions: unit rows, unit centroids, nearness by cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 4096


class DirectionClusters(NamedTuple):
    """centroids: (cluster, dim) float32, of length 1. nearest: (row,) int64, the centroid of each row."""

    centroids: Tensor
    nearest: Tensor


@torch.no_grad()
def spherical_kmeans(
    table: Tensor, rows: Tensor, start: Tensor, *, iterations: int, across_processes: bool = False
) -> DirectionClusters:
    """Cluster rows of a table by cosine (Dhillon and Modha, 2001; DeepCluster-v2: Caron et al., 2020).

    table: (entry, dim), unit rows of any precision, read piece by piece. rows: (row,) int64, which of them; across processes those of
    this one. start: (cluster, dim), the first centroids, the same in every process. In each iteration a centroid becomes the direction
    of the mean of the rows nearest to it; one without rows stays where it is.
    """
    centroids = F.normalize(start.float(), dim=1)
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
        for part in torch.split(rows, _CHUNK):
            points = table[part].float()
            nearest = _nearest(points, centroids)
            # A matrix product, for adding rows by index is not repeatable on a GPU; `F.one_hot` would hold twice as much.
            members = points.new_zeros(len(points), len(centroids)).scatter_(1, nearest.unsqueeze(1), 1.0)
            sums += members.T @ points
            counts += members.sum(0)
        if across_processes:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        centroids = torch.where((counts > 0).unsqueeze(1), F.normalize(sums, dim=1), centroids)
    labels = [_nearest(table[part].float(), centroids) for part in torch.split(rows, _CHUNK)]
    return DirectionClusters(centroids, torch.cat(labels))


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    return (points @ centroids.T).argmax(dim=1)
