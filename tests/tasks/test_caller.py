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
