"""Area under the receiver operating characteristic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._per_class import mean_over_classes

if TYPE_CHECKING:
    import numpy as np

    from audiossl.metrics._detection import DetectionCurve


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a positive item has a higher score than a negative one, ties counted half: the area under the ROC curve.

    0.5 for a guess, 1 is perfect. scores, labels: (item,), or (item, class) for the mean over classes, each against all others;
    labels bool, or 0 and 1. ValueError for scores that are not finite and where a class has no positive or no negative item.
    """
    return mean_over_classes(scores, labels, curve_auc)


def curve_auc(curve: DetectionCurve) -> float:
    """Area under a curve that is already there; see `area_under_curve`."""
    hits = curve.num_target - curve.misses
    # Twice the area in counts, so that only the last step rounds.
    doubled = (curve.false_alarms[:-1] - curve.false_alarms[1:]) * (hits[:-1] + hits[1:])
    return int(doubled.sum()) / (2 * curve.num_target * curve.num_nontarget)
