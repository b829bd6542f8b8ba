"""Sensitivity index: how far the scores of targets lie from those of non-targets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def curve_d_prime(curve: DetectionCurve) -> float:
    """Distance between the mean scores of both classes, in units of their common deviation (Green and Swets, 1966).

    d' = (mean of targets - mean of non-targets) / sqrt((variance of targets + variance of non-targets) / 2), variances over n. Gaussian
    scores of equal variance have the equal error rate Phi(-d' / 2). 0 where the means are equal, infinite where they are not and neither
    class varies. `d_prime` takes scores: (trial,), higher for targets; labels: (trial,) bool, or 0 and 1. ValueError for scores that are not
    finite and where one class has no trial.
    """
    values = curve.scores.astype(np.float64, copy=False)
    target, target_variance = _moments(values, np.diff(curve.misses))
    nontarget, nontarget_variance = _moments(values, -np.diff(curve.false_alarms))
    distance, deviation = target - nontarget, math.sqrt((target_variance + nontarget_variance) / 2.0)
    if deviation == 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / deviation


d_prime = of_trials(curve_d_prime)


def _moments(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Mean and variance of values that come so many times."""
    number = int(counts.sum())
    origin = float(values[np.argmax(counts > 0)])  # from which equal values are exactly 0 away
    mean = origin + float((values - origin) @ counts) / number
    return mean, float(np.square(values - mean) @ counts) / number
