"""Agreement of clusters with classes, and silhouettes: against their formulas as loops, and scikit-learn."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from audiossl.metrics._contingency import contingency
from audiossl.metrics.adjusted_mutual_information import adjusted_mutual_information
from audiossl.metrics.adjusted_rand_index import adjusted_rand_index
from audiossl.metrics.silhouette import silhouette


def table(classes, clusters):
    return contingency(classes, clusters, num_phones=classes.max() + 2, num_units=clusters.max() + 2)


def labelled(seed, count=300):
    rng = np.random.default_rng(seed)
    classes = rng.choice(6, count, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    return classes, np.where(rng.random(count) < 0.5, classes, rng.integers(0, 9, count))


def ami_by_formula(classes, clusters):
    """Every term of the sums over classes, clusters and overlaps, with exact factorials."""
    counts = contingency(classes, clusters, num_phones=classes.max() + 1, num_units=clusters.max() + 1)
    a, b, n = counts.sum(1).tolist(), counts.sum(0).tolist(), int(counts.sum())
    information = expected = 0.0
    for i, ai in enumerate(a):
        for j, bj in enumerate(b):
            if counts[i, j]:
                information += counts[i, j] / n * math.log(n * counts[i, j] / (ai * bj))
            for k in range(max(1, ai + bj - n), min(ai, bj) + 1):
                chance = math.comb(bj, k) * math.comb(n - bj, ai - k) / math.comb(n, ai)
                expected += k / n * math.log(n * k / (ai * bj)) * chance
    both = [-sum(size / n * math.log(size / n) for size in side if size) for side in (a, b)]
    return (information - expected) / (sum(both) / 2 - expected)


def ari_by_pairs(classes, clusters):
    together = of_class = of_cluster = 0
    pairs = list(combinations(range(len(classes)), 2))
    for i, j in pairs:
        of_class += classes[i] == classes[j]
        of_cluster += clusters[i] == clusters[j]
        together += classes[i] == classes[j] and clusters[i] == clusters[j]
    expected = of_class * of_cluster / len(pairs)
    return (together - expected) / ((of_class + of_cluster) / 2 - expected)


def silhouette_by_loop(points, labels):
    scores = []
    for i, point in enumerate(points):
        distances = {}
        for j, other in enumerate(points):
            if i != j:
                distances.setdefault(int(labels[j]), []).append(math.dist(point, other))
        own = distances.pop(int(labels[i]), None)
        if own is None:
            scores.append(0.0)
            continue
        a, b = np.mean(own), min(np.mean(others) for others in distances.values())
        scores.append((b - a) / max(a, b))
    return np.mean(scores)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_the_formula_and_scikit_learn(seed):
    classes, clusters = labelled(seed)
    counts = table(classes, clusters)
    assert adjusted_mutual_information(counts) == pytest.approx(ami_by_formula(classes, clusters), abs=1e-10)
    sklearn = sklearn_metrics.adjusted_mutual_info_score(classes, clusters)
    assert adjusted_mutual_information(counts) == pytest.approx(sklearn, abs=1e-10)
    assert adjusted_rand_index(counts) == pytest.approx(ari_by_pairs(classes, clusters), abs=1e-12)
    assert adjusted_rand_index(counts) == pytest.approx(
        sklearn_metrics.adjusted_rand_score(classes, clusters), abs=1e-12
    )


def test_random_clusters_score_about_nothing():
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(20):
        classes, clusters = rng.integers(0, 20, 400), rng.integers(0, 20, 400)
        counts = table(classes, clusters)
        scores.append((adjusted_mutual_information(counts), adjusted_rand_index(counts)))
        # Without the correction, as much would be counted as knowledge.
        assert sklearn_metrics.normalized_mutual_info_score(classes, clusters) > 0.1
    assert np.abs(np.mean(scores, axis=0)).max() < 0.01


@pytest.mark.parametrize("score", [adjusted_mutual_information, adjusted_rand_index])
def test_agreement_at_its_ends(score):
    classes, _ = labelled(0, 40)
    assert score(table(classes, (classes + 3) % 6)) == pytest.approx(1.0)
    one, apart = np.zeros(10, np.int64), np.arange(10)
    assert score(table(one, one)) == 1.0
    assert score(table(apart, apart)) == 1.0
    assert score(table(one, apart)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="joint counts"):
        score(np.zeros((2, 2)))


@pytest.mark.parametrize("count", [40, 700])  # below and above the rows of one block
def test_silhouette_is_the_loop_and_scikit_learn(count):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, count)
    labels[0] = 9  # alone
    points = rng.standard_normal((count, 3)) + labels[:, None]
    if count < 100:
        assert silhouette(points, labels) == pytest.approx(silhouette_by_loop(points, labels), abs=1e-12)
    assert silhouette(points, labels) == pytest.approx(sklearn_metrics.silhouette_score(points, labels), abs=1e-10)


def test_silhouette_of_equal_points_and_of_one_cluster():
    assert silhouette(np.ones((6, 2)), np.array([0, 0, 0, 1, 1, 1])) == 0.0
    with pytest.raises(ValueError, match="1 clusters"):
        silhouette(np.ones((6, 2)), np.zeros(6))
