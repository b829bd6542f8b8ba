"""Effective rank, alignment, uniformity and ABX: against loops over the papers' formulas."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from audiossl.metrics.abx_error import abx_error
from audiossl.metrics.alignment import alignment
from audiossl.metrics.effective_rank import effective_rank
from audiossl.metrics.uniformity import uniformity


def test_effective_rank_is_the_entropy_of_the_spectrum():
    points = np.random.default_rng(0).standard_normal((50, 8)) * np.arange(1, 9)
    values = np.sqrt(np.linalg.eigvalsh(points.T @ points))
    p = [value / sum(values) for value in values]
    assert effective_rank(np.linalg.svd(points)[1]) == pytest.approx(
        math.exp(-sum(q * math.log(q) for q in p)), abs=1e-9
    )
    p = [q + 1e-7 for q in p]
    rank_me = math.exp(-sum(q * math.log(q) for q in p))
    assert effective_rank(values, epsilon=1e-7) == pytest.approx(rank_me, abs=1e-12)


def test_effective_rank_at_its_ends():
    assert effective_rank(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_rank(np.array([2.0, 0, 0])) == 1.0
    assert effective_rank(np.zeros(3)) == 0.0
    for odd in (np.array([-1.0, 2]), np.array([np.nan]), np.empty(0), np.ones((2, 2))):
        with pytest.raises(ValueError, match="singular values"):
            effective_rank(odd)


def unit(point):
    return [value / math.hypot(*point) for value in point]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_alignment_is_the_mean_over_pairs(power):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 30, 5))
    wanted = np.mean([math.dist(unit(x), unit(y)) ** power for x, y in zip(first, second, strict=True)])
    assert alignment(first, second, power=power) == pytest.approx(wanted, abs=1e-12)
    assert alignment(first, 3 * first) == pytest.approx(0.0, abs=1e-12)
    assert alignment(first, -first) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="two views"):
        alignment(first, second[1:])
    with pytest.raises(ValueError, match="point 0 has the length 0"):
        alignment(0 * first, second)


@pytest.mark.parametrize(("count", "t"), [(20, 2.0), (20, 0.5), (530, 2.0)])
def test_uniformity_is_the_log_of_the_mean_over_pairs(count, t):
    points = np.random.default_rng(0).standard_normal((count, 4))
    pairs = [math.exp(-t * math.dist(unit(x), unit(y)) ** 2) for x, y in combinations(points.tolist(), 2)]
    assert uniformity(points, t=t) == pytest.approx(math.log(np.mean(pairs)), abs=1e-10)


def test_uniformity_at_its_ends():
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8.0)
    with pytest.raises(ValueError, match="at least two"):
        uniformity(np.ones((1, 3)))


def abx_by_loop(distances, categories, categories_x, *, symmetric):
    found = {}
    for x, of_x in enumerate(categories_x):
        for a, of_a in enumerate(categories):
            if of_a != of_x or (symmetric and a == x):
                continue
            for b, of_b in enumerate(categories):
                if of_b != of_a:
                    near, far = distances[x, a], distances[x, b]
                    found.setdefault((of_a, of_b), []).append(1.0 if near > far else 0.5 if near == far else 0.0)
    return {pair: np.mean(wrong) for pair, wrong in found.items()}


@pytest.mark.parametrize("symmetric", [True, False])
def test_abx_is_a_loop_over_triplets(symmetric):
    rng = np.random.default_rng(2)
    categories = np.array([4, 1, 1, 2, 4, 4, 1, 7, 4])  # 7 and 2 have a single token
    categories_x = categories if symmetric else np.array([1, 4, 2, 2, 9, 1])
    distances = rng.integers(0, 6, (len(categories_x), len(categories))).astype(float)  # with ties
    first, second, errors = abx_error(distances, categories, categories_x, symmetric=symmetric)
    wanted = abx_by_loop(distances, categories.tolist(), categories_x.tolist(), symmetric=symmetric)
    found = dict(zip(zip(first.tolist(), second.tolist(), strict=True), errors, strict=True))
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted)


def test_abx_without_a_triplet():
    first, second, errors = abx_error(np.zeros((2, 2)), np.array([0, 0]), np.array([0, 0]))
    assert len(first) == len(second) == len(errors) == 0
