"""Actual detection cost, at the threshold that log-likelihood ratios promise to be best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import default_cost, of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def curve_act_dcf(
    curve: DetectionCurve, *, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, normalise: bool = True
) -> float:
    """Detection cost of accepting at log(c_fa / c_miss) - logit(p_target) and above (NIST 2016 evaluation plan, section 3).

    Only for natural-log likelihood ratios, of PLDA or after calibration; never below `min_dcf`, and what it is above it is
    miscalibration. normalise: as in `min_dcf`. `act_dcf` takes scores: (trial,) log-likelihood ratios; labels: (trial,) bool, or 0 and 1.
    ValueError as in `min_dcf`.
    """
    default = default_cost(p_target, c_miss, c_fa)
    threshold = math.log(c_fa / c_miss) + math.log1p(-p_target) - math.log(p_target)
    point = int(np.searchsorted(curve.scores, threshold))
    miss, false_alarm = curve.misses[point] / curve.num_target, curve.false_alarms[point] / curve.num_nontarget
    cost = c_miss * p_target * miss + c_fa * (1.0 - p_target) * false_alarm
    return float(cost) / (default if normalise else 1.0)


act_dcf = of_trials(curve_act_dcf)
