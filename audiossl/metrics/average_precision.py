"""Average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._per_class import mean_over_classes

if TYPE_CHECKING:
    import numpy as np

    from audiossl.metrics._detection import DetectionCurve


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Precision averaged over the positive items, each at the threshold of its own score: sum_n (R_n - R_n-1) P_n.

    Nothing is interpolated; items of one score share a threshold. The share of positives for a guess, 1 is perfect. scores, labels:
    (item,), or (item, class) for the mean over classes (mAP); labels bool, or 0 and 1. Of pairs of words, with 1 for the same
    word, it is the average precision of the same-different task (Carlin et al., 2011). ValueError for scores that are not finite and
    where a class has no positive or no negative item.
    """
    return mean_over_classes(scores, labels, curve_average_precision)


def curve_average_precision(curve: DetectionCurve) -> float:
    """Average precision of a curve that is already there; see `average_precision`."""
    hits = (curve.num_target - curve.misses)[:-1]  # without the point that accepts nothing
    precision = hits / (hits + curve.false_alarms[:-1])
    gained = curve.misses[1:] - curve.misses[:-1]
    return float(gained @ precision) / curve.num_target
