"""Actual detection cost, at the threshold that log-likelihood ratios promise to be best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import default_cost, detection_curve

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def act_dcf(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    normalise: bool = True,
) -> float:
    """Detection cost of accepting at log(c_fa / c_miss) - logit(p_target) and above (NIST 2016 evaluation plan, section 3).

    Only for natural-log likelihood ratios, of PLDA or after calibration; never below `min_dcf`, and what it is above it is
    miscalibration. normalise: as in `min_dcf`. scores: (trial,) log-likelihood ratios. labels: (trial,) bool, or 0 and 1. ValueError as in `min_dcf`.
    """
    default_cost(p_target, c_miss, c_fa)
    curve = detection_curve(scores, labels)
    return curve_act_dcf(curve, p_target=p_target, c_miss=c_miss, c_fa=c_fa, normalise=normalise)


def curve_act_dcf(
    curve: DetectionCurve, *, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, normalise: bool = True
) -> float:
    """Actual detection cost of a curve that is already there; see `act_dcf`."""
    default = default_cost(p_target, c_miss, c_fa)
    threshold = math.log(c_fa / c_miss) + math.log1p(-p_target) - math.log(p_target)
    point = int(np.searchsorted(curve.scores, threshold))
    miss, false_alarm = curve.misses[point] / curve.num_target, curve.false_alarms[point] / curve.num_nontarget
    cost = c_miss * p_target * miss + c_fa * (1.0 - p_target) * false_alarm
    return float(cost) / (default if normalise else 1.0)
