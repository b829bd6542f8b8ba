"""Purity, PNMI and entropy against definitions written as loops over frames, and scikit-learn."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from audiossl import registry
from audiossl.metrics._contingency import contingency
from audiossl.metrics.cluster_purity import cluster_purity
from audiossl.metrics.code_entropy import code_entropy
from audiossl.metrics.phone_purity import phone_purity
from audiossl.metrics.pnmi import pnmi


@pytest.fixture(params=[0, 1, 2])
def pairs(request):
    """Frames of correlated phones and units; some units and phones never occur."""
    rng = np.random.default_rng(request.param)
    phones = rng.integers(0, 7, 500)
    units = np.where(rng.random(500) < 0.6, 2 * phones + rng.integers(0, 2, 500), rng.integers(0, 18, 500))
    return phones, units


def table(pairs):
    return contingency(*pairs, num_phones=9, num_units=20)


def test_contingency_is_a_loop_over_frames(pairs):
    counts = np.zeros((9, 20), dtype=np.int64)
    for phone, unit in zip(*pairs, strict=True):
        counts[phone, unit] += 1
    assert np.array_equal(table(pairs), counts)


def majority(keys, values):
    """Share of frames whose value is the commonest one of their key."""
    right = 0
    for key in set(keys):
        right += Counter(v for k, v in zip(keys, values, strict=True) if k == key).most_common(1)[0][1]
    return right / len(keys)


def test_purities_are_majority_votes(pairs):
    phones, units = (list(map(int, side)) for side in pairs)
    assert phone_purity(table(pairs)) == pytest.approx(majority(units, phones), abs=1e-12)
    assert cluster_purity(table(pairs)) == pytest.approx(majority(phones, units), abs=1e-12)


def test_pnmi_is_the_sum_over_frames(pairs):
    phones, units = (list(map(int, side)) for side in pairs)
    total = len(phones)
    joint, p, u = Counter(zip(phones, units, strict=True)), Counter(phones), Counter(units)
    information = sum(n / total * math.log(n * total / (p[a] * u[b])) for (a, b), n in joint.items())
    phone_entropy = -sum(n / total * math.log(n / total) for n in p.values())
    assert pnmi(table(pairs)) == pytest.approx(information / phone_entropy, abs=1e-12)


def test_pnmi_agrees_with_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    phones, units = pairs
    information = metrics.mutual_info_score(phones, units)
    phone_entropy = metrics.mutual_info_score(phones, phones)  # I(x; x) = H(x)
    assert pnmi(table(pairs)) == pytest.approx(information / phone_entropy, abs=1e-9)


def test_limits():
    assert pnmi(np.eye(4)) == pytest.approx(1)
    assert phone_purity(np.eye(4)) == cluster_purity(np.eye(4)) == 1
    assert pnmi(np.ones((3, 5))) == pytest.approx(0, abs=1e-12)
    assert phone_purity(np.ones((4, 5))) == pytest.approx(1 / 4)
    assert cluster_purity(np.ones((4, 5))) == pytest.approx(1 / 5)
    assert math.isnan(pnmi(np.ones((1, 5))))


def test_code_entropy():
    assert code_entropy(np.full(16, 3)) == pytest.approx(4)
    assert code_entropy(np.array([0, 9, 0])) == 0
    counts = np.array([5, 0, 3, 2])
    assert code_entropy(counts) == pytest.approx(-sum(c / 10 * math.log2(c / 10) for c in (5, 3, 2)))


@pytest.mark.parametrize("metric", [phone_purity, cluster_purity, pnmi])
@pytest.mark.parametrize("counts", [np.zeros((2, 3)), np.ones(3), np.array([[1, -1], [2, 3]])])
def test_what_is_no_table_of_counts_is_refused(metric, counts):
    with pytest.raises(ValueError, match=r"\(phone, unit\) table"):
        metric(counts)


@pytest.mark.parametrize("counts", [np.zeros(3), np.ones((2, 2)), np.array([2, -1])])
def test_code_entropy_refuses(counts):
    with pytest.raises(ValueError, match="code counts"):
        code_entropy(counts)


@pytest.mark.parametrize("name", ["phone_purity", "cluster_purity", "pnmi", "code_entropy"])
def test_found_by_name(name):
    assert registry.get("metrics", name).__name__ == name
