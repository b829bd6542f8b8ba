"""Overlap of the scores of targets and non-targets: the trials on the wrong side of one threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._detection import around_equality, detection_curve

if TYPE_CHECKING:
    import numpy as np

    from audiossl.metrics._detection import DetectionCurve


def score_overlap(scores: np.ndarray, labels: np.ndarray) -> float:
    """False negatives and false positives at the threshold of the equal error rate, in percent of all trials.

    100 (FN + FP) / trials, FN and FP counted where miss and false-alarm rate are the closest, of two equally close thresholds at the lower
    one: what a margin on positives is meant to reduce (Lepage and Dehak, 2024). scores: (trial,), higher for targets. labels: (trial,)
    bool, or 0 and 1. ValueError for scores that are not finite and where one class has no trial.
    """
    return curve_score_overlap(detection_curve(scores, labels))


def curve_score_overlap(curve: DetectionCurve) -> float:
    """Overlap, in percent, of a curve that is already there; see `score_overlap`."""
    before, after, below, above = around_equality(curve)
    point = before if below <= above else after
    wrong = int(curve.misses[point]) + int(curve.false_alarms[point])
    return 100.0 * wrong / (curve.num_target + curve.num_nontarget)
