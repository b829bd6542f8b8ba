"""Accuracy and confusion against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics.accuracy import accuracy, confusion_matrix


def test_accuracy_equals_counting_and_takes_strings_or_numbers():
    assert accuracy(["yes", "no", "no", "up"], ["yes", "no", "yes", "up"]) == 75.0
    assert accuracy(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(100 / 3)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"]), ([["a"]], [["a"]])])
def test_accuracy_refuses_what_it_cannot_score(predictions, references):
    with pytest.raises(ValueError, match="accuracy"):
        accuracy(predictions, references)


def test_confusion_counts_every_pair_once():
    rng = np.random.default_rng(0)
    predicted, wanted = rng.integers(0, 5, 300), rng.integers(0, 4, 300)
    slow = np.zeros((5, 5), dtype=np.int64)
    for a, b in zip(wanted, predicted, strict=True):
        slow[a, b] += 1
    np.testing.assert_array_equal(confusion_matrix(predicted, wanted, 5), slow)
    assert np.trace(slow) == round(accuracy(predicted, wanted) * 3)
