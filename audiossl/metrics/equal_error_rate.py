"""Equal error rate of a detector, by each of the conventions that published numbers follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from audiossl.metrics._detection import around_equality, of_trials

if TYPE_CHECKING:
    from audiossl.metrics._detection import DetectionCurve

Convention: TypeAlias = Literal["interpolated", "max", "mean", "convex_hull"]


def curve_eer(curve: DetectionCurve, *, convention: Convention = "interpolated") -> float:
    """Error rate, in percent, at the threshold where misses and false alarms are equally frequent.

    `equal_error_rate` takes scores: (trial,), higher for targets; labels: (trial,) bool, or 0 and 1. Trials of one score share one side of every threshold.
    As a finite list seldom has a threshold where both rates are equal, conventions differ, little where trials are many and scores
    distinct:

    * `interpolated`: on the line between the two points of the curve around equality (NIST's 2016 scoring script and wespeaker; the
      root of 1 - x = TPR(x) on the ROC, which s3prl seeks, is the same number);
    * `max`: the larger rate at the point where the two are closest (sslsv; voxceleb_trainer too, but it seeks that point among
      those that scikit-learn keeps of the curve, none inside a straight piece, which can choose another: by some 0.01 on VoxCeleb1-O, by more on short lists);
    * `mean`: their mean at that point (SpeechBrain);
    * `convex_hull`: where the convex hull of the ROC crosses the diagonal (BOSARIS; Bruemmer and de Villiers, 2013), the largest
      over priors of the least error rate at that prior; never above `interpolated`.

    Where two points are equally close, the one with the lower threshold counts. ValueError for scores that are not finite and
    where one class has no trial.
    """
    if convention == "convex_hull":
        return 100.0 * _hull_rate(curve)
    before, after, below, above = around_equality(curve)
    if convention == "interpolated":
        share = below / (above + below)
        misses = curve.misses[before] + share * (curve.misses[after] - curve.misses[before])
        return 100.0 * float(misses) / curve.num_target
    closest = before if below <= above else after
    rates = curve.misses[closest] / curve.num_target, curve.false_alarms[closest] / curve.num_nontarget
    if convention == "max":
        return 100.0 * float(max(rates))
    if convention == "mean":
        return 100.0 * float(sum(rates)) / 2.0
    raise ValueError(f"convention {convention!r} is unknown; choose one of {', '.join(get_args(Convention))}")


equal_error_rate = of_trials(curve_eer)


def _hull_rate(curve: DetectionCurve) -> float:
    """Where the lower convex hull of (false alarms, misses) crosses the diagonal.

    Only the edge that crosses is sought: a chord across the diagonal is moved to the point farthest below it until there is none.
    Counts instead of rates stretch the axes, which leaves a hull what it is, and keep the comparison exact.
    """
    misses, false_alarms = curve.misses, curve.false_alarms
    left, right = 0, len(misses) - 1
    while True:
        rise, fall = int(misses[right] - misses[left]), int(false_alarms[left] - false_alarms[right])
        heights = rise * false_alarms[left : right + 1] + fall * misses[left : right + 1]
        lowest = left + int(np.argmin(heights))
        if heights[lowest - left] == heights[0]:
            return int(heights[0]) / (rise * curve.num_nontarget + fall * curve.num_target)
        if misses[lowest] * curve.num_nontarget >= false_alarms[lowest] * curve.num_target:
            right = lowest
        else:
            left = lowest
