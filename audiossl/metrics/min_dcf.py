"""Minimum detection cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._detection import default_cost, of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def curve_min_dcf(
    curve: DetectionCurve, *, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, normalise: bool = True
) -> float:
    """Smallest detection cost that any threshold gives (NIST 2016 speaker recognition evaluation plan, section 3).

    C = c_miss p_target P_miss + c_fa (1 - p_target) P_fa, over all thresholds, accepting and rejecting everything among them.
    normalise: divide by min(c_miss p_target, c_fa (1 - p_target)), the cost of the better of those two, so that 1 means a useless
    detector; published tables do, except SpeechBrain's, which are the raw cost. `min_dcf` takes scores: (trial,), higher for targets; labels: (trial,)
    bool, or 0 and 1. ValueError for scores that are not finite, where one class has no trial, and for priors and costs that are none.
    """
    default = default_cost(p_target, c_miss, c_fa)
    cost = c_miss * p_target * curve.miss_rate
    cost += c_fa * (1.0 - p_target) * curve.false_alarm_rate
    return float(cost.min()) / (default if normalise else 1.0)


min_dcf = of_trials(curve_min_dcf)
