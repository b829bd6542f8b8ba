"""k-means on directions against loops, and what it promises."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from two_crops import unit

from audiossl.objectives._spherical_kmeans import spherical_kmeans


def by_loops(points, start, iterations):
    centroids = unit(start)
    for _ in range(iterations):
        nearest = [max(range(len(centroids)), key=lambda k, x=x: x @ centroids[k]) for x in points]
        for k in range(len(centroids)):
            members = [x for x, label in zip(points, nearest, strict=True) if label == k]
            if members:
                centroids[k] = unit(np.sum(members, axis=0))
    return centroids, [max(range(len(centroids)), key=lambda k, x=x: x @ centroids[k]) for x in points]


def table(entries=60, dim=5):
    return torch.from_numpy(unit(np.random.default_rng(0).standard_normal((entries, dim))))


def test_equals_loops_on_the_chosen_rows():
    points, rows = table(), torch.arange(0, 60, 2)
    result = spherical_kmeans(points, rows, 3 * points[rows[:4]], iterations=5)
    centroids, nearest = by_loops(points.numpy()[::2], points.numpy()[:8:2], 5)
    np.testing.assert_allclose(result.centroids, centroids, atol=1e-6)
    assert result.nearest.tolist() == nearest


def test_a_centroid_without_rows_stays():
    points = table().abs()
    away = torch.full((1, 5), -1.0).double()
    result = spherical_kmeans(points, torch.arange(60), torch.cat([points[:2], away]), iterations=3)
    np.testing.assert_allclose(result.centroids[2], -np.ones(5) / np.sqrt(5), atol=1e-6)
    assert 2 not in result.nearest


def test_finds_planted_directions_in_half_precision():
    rng = np.random.default_rng(1)
    truth = np.arange(10000) % 3  # more rows than fit one piece
    points = unit(np.eye(3, 8)[truth] + 0.1 * rng.standard_normal((10000, 8)))
    result = spherical_kmeans(torch.from_numpy(points).half(), torch.arange(10000), torch.eye(3, 8) + 0.2, iterations=4)
    assert result.centroids.dtype == torch.float32
    assert (result.nearest.numpy() == truth).mean() > 0.99
    np.testing.assert_allclose(result.centroids, np.eye(3, 8), atol=0.02)


def test_nothing_is_added_in_an_order_that_a_gpu_would_choose():
    class Listed(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            called.add(operation.overloadpacket.__name__.rstrip("_"))
            return operation(*args, **(kwargs or {}))

    called = set()
    with Listed():
        spherical_kmeans(table(), torch.arange(60), table()[:4], iterations=2)
    assert "mm" in called
    assert not called & {"index_add", "scatter_add", "index_put", "scatter_reduce", "index_reduce"}
