"""k-means against slow definitions and scikit-learn."""

from __future__ import annotations

import multiprocessing
import warnings

import faiss
import numpy as np
import pytest
import torch

from audiossl.units.kmeans import NearestCentroid, evaluate, kmeans, kmeans_plus_plus


def blobs(num_points=4000, dim=8, clusters=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = 10 * rng.standard_normal((clusters, dim))
    points = centres[rng.integers(0, clusters, num_points)] + rng.standard_normal((num_points, dim))
    return points.astype(np.float32)


def slow_labels(points, centroids):
    return np.array([np.square(centroids.astype(np.float64) - point).sum(axis=1).argmin() for point in points])


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_nearest_is_the_nearest(offset):
    points, centroids = blobs(1500) + np.float32(offset), blobs(50, seed=1) + np.float32(offset)
    labels = NearestCentroid(centroids)(torch.from_numpy(points)).numpy()
    assert np.array_equal(labels, slow_labels(points, centroids))


def test_evaluate_is_a_loop_over_points():
    points, centroids = blobs(700), blobs(20, seed=3)
    found = evaluate(points, centroids)
    labels = slow_labels(points, centroids)
    inertia = np.mean(
        [np.square(p.astype(np.float64) - centroids[k]).sum() for p, k in zip(points, labels, strict=True)]
    )
    assert found.inertia == pytest.approx(inertia, rel=1e-6)
    assert np.array_equal(found.counts, np.bincount(labels, minlength=20))


def test_result_is_a_fixed_point_of_lloyd():
    points = blobs(2000, clusters=10)
    found = kmeans(points, 10, iterations=40, redo=1, seed=0)
    labels = slow_labels(points, found.centroids)
    means = np.stack([points[labels == code].mean(axis=0) for code in range(10)])
    assert np.allclose(means, found.centroids, atol=1e-3)


def test_seeds_are_distinct_points_and_beat_a_random_start():
    points = blobs()
    seeds = kmeans_plus_plus(points, 60, np.random.default_rng(0))
    assert len(np.unique(seeds, axis=0)) == 60
    assert all((points == seed).all(axis=1).any() for seed in seeds)
    random = points[np.random.default_rng(0).choice(len(points), 60, replace=False)]
    assert evaluate(points, seeds).inertia < 0.7 * evaluate(points, random).inertia


def test_seeds_are_drawn_by_squared_distance():
    """Two near points and one far: with two clusters and one greedy step the far one is always among the seeds."""
    points = np.array([[0.0], [0.1], [100.0]], dtype=np.float32)
    for seed in range(20):
        assert 100.0 in kmeans_plus_plus(points, 2, np.random.default_rng(seed))


def test_inertia_is_as_good_as_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    points = blobs()
    theirs = cluster.KMeans(60, n_init=1, random_state=0, max_iter=30).fit(points).inertia_ / len(points)
    assert kmeans(points, 60, iterations=30, redo=1, seed=0).inertia <= 1.05 * theirs


def test_same_bytes_on_every_run_and_other_bytes_with_another_seed():
    points = blobs()
    first, second, other = (kmeans(points, 30, iterations=5, redo=2, seed=seed) for seed in (3, 3, 4))
    assert first.centroids.tobytes() == second.centroids.tobytes()
    assert first.centroids.tobytes() != other.centroids.tobytes()


def test_redo_keeps_the_best():
    points = blobs()
    one, several = (kmeans(points, 60, iterations=2, redo=redo, seed=0).inertia for redo in (1, 5))
    assert several <= one


def test_fewer_distinct_points_than_clusters_leaves_codes_unused():
    points = np.repeat(np.arange(3, dtype=np.float32)[:, None], 50, axis=0)
    found = kmeans(points, 5, iterations=5, redo=1, seed=0)
    assert found.inertia == pytest.approx(0, abs=1e-4)
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [(np.zeros((3, 2), dtype=np.float32), "3 frames for 4 clusters"), (np.full((9, 2), np.nan, np.float32), "nan")],
)
def test_refuses(points, message):
    with pytest.raises(ValueError, match=message):
        kmeans(points, 4, iterations=1, redo=1, seed=0)


def _fit_in_child(queue):
    queue.put(kmeans(blobs(), 20, iterations=3, redo=1, seed=0).centroids.tobytes())


@pytest.fixture
def two_threads():
    """With one thread there is nothing to hang on."""
    before, torch_before = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(2)
    torch.set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)
    torch.set_num_threads(torch_before)


@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_does_not_hang():
    expected = kmeans(blobs(), 20, iterations=3, redo=1, seed=0)  # starts this process' OpenMP threads
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_fit_in_child, args=(queue,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any fork beside threads
        child.start()
    try:
        assert queue.get(timeout=30) == expected.centroids.tobytes()
    finally:
        child.kill()
        child.join()
