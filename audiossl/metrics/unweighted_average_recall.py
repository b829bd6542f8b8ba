"""Unweighted average recall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def unweighted_average_recall(predictions: Sequence[Any] | np.ndarray, references: Sequence[Any] | np.ndarray) -> float:
    """Mean over the classes of the references of the share of each that is predicted right, in percent.

    Also known as balanced accuracy; 100 / classes for a guess, however unequal the classes. Both: (item,), labels or class numbers.
    A class that only predictions have is wrong wherever it stands, and no class of the mean. ValueError when the two differ in
    length or are empty.
    """
    predicted, wanted = np.asarray(predictions), np.asarray(references)
    if predicted.shape != wanted.shape or predicted.ndim != 1 or not len(wanted):
        raise ValueError(
            f"unweighted average recall: {predicted.shape} predictions for {wanted.shape} references; give one for each, and one at least"
        )
    _, item_class = np.unique(wanted, return_inverse=True)
    right = np.bincount(item_class, weights=predicted == wanted)
    return 100.0 * float(np.mean(right / np.bincount(item_class)))
