"""F1 of accepting what scores a threshold or more."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._detection import detection_curve


def threshold_f1(scores: np.ndarray, labels: np.ndarray, threshold: float | None = None) -> float:
    """Harmonic mean of precision and recall in percent: 2 hits / (2 hits + false alarms + misses).

    threshold: None takes the best one for these very scores, which is optimistic. scores: (item,); labels: (item,) bool, or 0 and 1. ValueError for scores that are not finite
    and where all labels are alike.
    """
    curve = detection_curve(np.asarray(scores), np.asarray(labels))
    hits = curve.num_target - curve.misses
    values = 200.0 * hits / (2 * hits + curve.false_alarms + curve.misses)
    if threshold is None:
        return float(values.max())
    return float(values[np.searchsorted(curve.scores, threshold)])
