"""Cost of log-likelihood ratios."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def curve_cllr(curve: DetectionCurve) -> float:
    """Cost of log-likelihood ratios in bits, over all priors at once (Bruemmer and du Preez, 2006, equation 25).

    1/2 [mean over targets of log2(1 + e^-s) + mean over non-targets of log2(1 + e^s)]: 0 is perfect, 1 is what the constant score 0
    gets, more is worse than knowing nothing. `cllr` takes scores: (trial,) natural-log likelihood ratios; labels: (trial,) bool, or 0 and 1.
    ValueError for scores that are not finite and where one class has no trial.
    """
    values = curve.scores.astype(np.float64, copy=False)
    targets = float(np.diff(curve.misses) @ np.logaddexp(0.0, -values)) / curve.num_target
    nontargets = float(-np.diff(curve.false_alarms) @ np.logaddexp(0.0, values)) / curve.num_nontarget
    return (targets + nontargets) / (2.0 * math.log(2.0))


cllr = of_trials(curve_cllr)
