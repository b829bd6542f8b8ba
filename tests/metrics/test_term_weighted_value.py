"""The term-weighted value at a threshold against counts by hand, and its best against the maximum."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics.maximum_term_weighted_value import maximum_term_weighted_value
from audiossl.metrics.term_weighted_value import term_weighted_value


def trials():
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.1
    queries = rng.integers(0, 6, 400)
    labels[queries == 5] = False  # a query without a target
    return np.round(rng.normal(3.0 * labels), 1), labels, queries


def by_hand(scores, labels, queries, threshold, beta):
    values = []
    for query in np.unique(queries):
        mine = queries == query
        if not labels[mine].any():
            continue
        missed = np.mean(scores[mine & labels] <= threshold)
        invented = np.mean(scores[mine & ~labels] > threshold)
        values.append(1 - missed - beta * invented)
    return np.mean(values)


@pytest.mark.parametrize("threshold", [-10.0, 1.0, 2.0, 2.5, 9.0])
def test_equals_counts_by_hand(threshold):
    found = term_weighted_value(*trials(), threshold=threshold)
    assert found == pytest.approx(by_hand(*trials(), threshold, 0.01 * (1 / 0.0008 - 1)), abs=1e-12)


def test_its_largest_value_is_the_maximum():
    scores, labels, queries = trials()
    values = [term_weighted_value(*trials(), threshold=score) for score in np.unique(scores)]
    assert max(values) == pytest.approx(maximum_term_weighted_value(scores, labels, queries), abs=1e-12)
    assert max(values) > 0.1
