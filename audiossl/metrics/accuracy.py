"""Classification accuracy and the table of what was taken for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def accuracy(predictions: Sequence[Any] | np.ndarray, references: Sequence[Any] | np.ndarray) -> float:
    """Share of predictions that equal their reference, in percent.

    Both: (item,), labels or class numbers. ValueError when the two differ in length or are empty.
    """
    predicted, wanted = np.asarray(predictions), np.asarray(references)
    if predicted.shape != wanted.shape or predicted.ndim != 1:
        raise ValueError(f"accuracy: {predicted.shape} predictions for {wanted.shape} references; give one for each")
    if not len(wanted):
        raise ValueError("accuracy: nothing to score; give at least one utterance")
    return 100.0 * float(np.mean(predicted == wanted))


def confusion_matrix(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how often each class was taken for each: (reference class, predicted class) int64.

    predictions, references: (item,) class numbers in [0, num_classes).
    """
    joint = np.asarray(references, dtype=np.int64) * num_classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(joint, minlength=num_classes**2).reshape(num_classes, num_classes)
