"""Minimum detection cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._detection import default_cost, detection_curve

if TYPE_CHECKING:
    import numpy as np

    from audiossl.metrics._detection import DetectionCurve


def min_dcf(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    normalise: bool = True,
) -> float:
    """Smallest detection cost that any threshold gives (NIST 2016 speaker recognition evaluation plan, section 3).

    C = c_miss p_target P_miss + c_fa (1 - p_target) P_fa, over all thresholds, accepting and rejecting everything among them.
    normalise: divide by min(c_miss p_target, c_fa (1 - p_target)), the cost of the better of those two, so that 1 means a useless
    detector; published tables do, except SpeechBrain's, which are the raw cost. scores: (trial,), higher for targets. labels: (trial,) bool, or 0
    and 1. ValueError for scores that are not finite, where one class has no trial, and for priors and costs that are none.
    """
    default_cost(p_target, c_miss, c_fa)  # a wrong prior shows before a long sort
    curve = detection_curve(scores, labels)
    return curve_min_dcf(curve, p_target=p_target, c_miss=c_miss, c_fa=c_fa, normalise=normalise)


def curve_min_dcf(
    curve: DetectionCurve, *, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, normalise: bool = True
) -> float:
    """Minimum detection cost of a curve that is already there; see `min_dcf`."""
    default = default_cost(p_target, c_miss, c_fa)
    cost = c_miss * p_target * curve.miss_rate
    cost += c_fa * (1.0 - p_target) * curve.false_alarm_rate
    return float(cost.min()) / (default if normalise else 1.0)
