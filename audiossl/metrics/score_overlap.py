"""Overlap of the scores of targets and non-targets: the trials on the wrong side of one threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._detection import around_equality, of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve


def curve_score_overlap(curve: DetectionCurve) -> float:
    """False negatives and false positives at the threshold of the equal error rate, in percent of all trials.

    100 (FN + FP) / trials, FN and FP counted where miss and false-alarm rate are the closest, of two equally close thresholds at the lower
    one: what a margin on positives is meant to reduce (Lepage and Dehak, 2024). `score_overlap` takes scores: (trial,), higher for targets; labels:
    (trial,) bool, or 0 and 1. ValueError for scores that are not finite and where one class has no trial.
    """
    before, after, below, above = around_equality(curve)
    point = before if below <= above else after
    wrong = int(curve.misses[point]) + int(curve.false_alarms[point])
    return 100.0 * wrong / (curve.num_target + curve.num_nontarget)


score_overlap = of_trials(curve_score_overlap)
