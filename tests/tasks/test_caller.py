"""Scores of callers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.tasks.caller import Caller


def test_scores():
    own = Caller(Caller.Config(), ("a", "b", "c"))
    labels = np.array([0, 0, 0, 0, 1, 1])
    outputs = np.array([[3, 1, 0], [2, 1, 0], [2, 0, 1], [0, 4, 1], [1, 2, 0], [5, 3, 0.0]])
    found = own.scores(outputs, labels)
    assert found["unweighted_average_recall"] == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert found["accuracy"] == pytest.approx(100 * 4 / 6)
    areas = []
    for caller in (0, 1):  # the third is not heard here
        ours, others = outputs[labels == caller, caller], outputs[labels != caller, caller]
        areas.append(np.mean([(a > b) + 0.5 * (a == b) for a in ours for b in others]))
    assert found["auc"] == pytest.approx(100 * np.mean(areas))
    with pytest.raises(ValueError, match="all tested utterances are of one caller"):
        own.scores(outputs[:4], labels[:4])


def folds_of(count, size=200):
    """Folds of two callers of unequal size, of whom 80 % and 60 % are told right."""
    labels = np.repeat([0, 1], [size, 2 * size])
    right = np.concatenate([np.arange(size) < 0.8 * size, np.arange(2 * size) < 1.2 * size])
    outputs = np.eye(2)[np.where(right, labels, 1 - labels)]
    return [(outputs, labels)] * count


@pytest.mark.parametrize("count", [1, 4])
def test_intervals_are_of_the_mean_over_folds(count):
    own, tested = Caller(Caller.Config(), ("a", "b")), folds_of(count)
    found = own.intervals(tested, seed=1, num_samples=400)
    value = own.scores(*tested[0])["unweighted_average_recall"]
    # Of the mean of two shares, each of as many draws as the caller has utterances in all folds.
    width = 100 * 1.96 * np.sqrt(0.8 * 0.2 / (200 * count) + 0.6 * 0.4 / (400 * count)) / 2
    recall = found["unweighted_average_recall"]
    assert (recall.low, recall.high) == pytest.approx((value - width, value + width), abs=0.2 * width)
    assert found["auc"].low < own.scores(*tested[0])["auc"] < found["auc"].high
    assert found == own.intervals(tested, seed=1, num_samples=400)
    assert found != own.intervals(tested, seed=2, num_samples=400)


def test_intervals_need_no_error_and_not_every_caller():
    own, labels = Caller(Caller.Config(), ("a", "b", "c")), np.array([0, 0, 2])
    found = own.intervals([(np.eye(3)[labels], labels)], seed=0, num_samples=40)
    assert set(found.values()) == {(100.0, 100.0)}
    with pytest.raises(ValueError, match="10 bootstrap samples cannot show a 95 % interval; draw 40 or more"):
        own.intervals([(np.eye(3)[labels], labels)], seed=0, num_samples=10)
