"""Coefficient of determination."""

from __future__ import annotations

import numpy as np


def r_squared(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of the variance of the references that predictions explain, 1 - sum (y - p)^2 / sum (y - mean y)^2.

    1 is perfect, 0 what naming the mean reaches; below 0 is worse. Both: (item,), or (item, value) for the mean over values. ValueError when the two
    differ in shape and for references that are all alike, which leave nothing to explain.
    """
    predicted, wanted = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if predicted.shape != wanted.shape or predicted.ndim not in {1, 2} or not predicted.size:
        raise ValueError(f"r squared: {predicted.shape} predictions for {wanted.shape} references; give one for each")
    spread = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
    if not np.all((spread > 0) & (np.ptp(wanted, axis=0) > 0)):  # the mean of equal ones may round
        raise ValueError("r squared: the references are all alike; give utterances of different values")
    return float(np.mean(1.0 - np.square(wanted - predicted).sum(axis=0) / spread))
