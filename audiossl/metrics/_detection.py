"""Miss and false-alarm curves: one sort that equal error rate, detection costs, Cllr, DET plots and intervals are read from."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_P = ParamSpec("_P")
_DET_POINTS = 400  # along each axis; more cannot be told apart in a plot


@dataclass(frozen=True)
class DetectionCurve:
    """Errors at every threshold that tells trials apart; trials of one score are accepted or rejected together.

    scores: (score,) the distinct scores, ascending. misses, false_alarms: (score + 1,) int64, counts of trials. Point k accepts
    what scores `scores[k]` or more, so that the first point accepts everything and the last one nothing.
    """

    scores: np.ndarray
    misses: np.ndarray
    false_alarms: np.ndarray

    @property
    def num_target(self) -> int:
        """Target trials."""
        return int(self.misses[-1])

    @property
    def num_nontarget(self) -> int:
        """Non-target trials."""
        return int(self.false_alarms[0])

    @property
    def miss_rate(self) -> np.ndarray:
        """(score + 1,) share of the targets that are rejected."""
        rate: np.ndarray = self.misses / self.num_target
        return rate

    @property
    def false_alarm_rate(self) -> np.ndarray:
        """(score + 1,) share of the non-targets that are accepted."""
        rate: np.ndarray = self.false_alarms / self.num_nontarget
        return rate


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


def detection_curve(scores: np.ndarray, labels: np.ndarray) -> DetectionCurve:
    """Sort the trials once and count the errors at every threshold.

    scores: (trial,) finite numbers, higher for the same speaker. labels: (trial,) bool, or 0 and 1; 1 is a target.
    ValueError for anything else, and where one of the two classes has no trial.
    """
    values, wanted = checked_trials(scores, labels)
    order = np.argsort(values)
    values = values[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # of each run of equal scores
    misses = np.zeros(len(last) + 1, dtype=np.int64)
    misses[1:] = np.cumsum(wanted[order], dtype=np.int64)[last]
    false_alarms = np.empty_like(misses)
    false_alarms[0] = len(values) - misses[-1]
    false_alarms[1:] = false_alarms[0] - (last + 1 - misses[1:])
    return DetectionCurve(values[last], misses, false_alarms)


class TrialMetric(Protocol[_P]):
    """scores: (trial,), higher for targets. labels: (trial,) bool, or 0 and 1."""

    def __call__(self, scores: np.ndarray, labels: np.ndarray, *args: _P.args, **options: _P.kwargs) -> float: ...


def of_trials(
    statistic: Callable[Concatenate[DetectionCurve, _P], float],
) -> TrialMetric[_P]:
    """Make the metric `f(scores, labels, **options)` of a statistic of their curve: named like its file, with the same docstring.

    ValueError as in `detection_curve`, and as the statistic says.
    """

    def metric(scores: np.ndarray, labels: np.ndarray, *args: _P.args, **options: _P.kwargs) -> float:
        return statistic(detection_curve(scores, labels), *args, **options)

    metric.__module__, metric.__doc__ = statistic.__module__, statistic.__doc__
    metric.__name__ = metric.__qualname__ = statistic.__module__.rpartition(".")[2]
    return metric


def around_equality(curve: DetectionCurve) -> tuple[int, int, int, int]:
    """Return the last point with more false alarms than misses, as rates, the next one, and how far either is from equality.

    The distances are whole numbers: that two rates are equal, or two points equally close, is not left to rounding.
    """
    gap = curve.misses * curve.num_nontarget - curve.false_alarms * curve.num_target
    after = int(np.searchsorted(gap, 0))
    return after - 1, after, -int(gap[after - 1]), int(gap[after])


def checked_trials(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as floats and labels as bool; ValueError where they are no trials of both classes."""
    values, given = np.asarray(scores), np.asarray(labels)
    if values.ndim != 1 or values.shape != given.shape:
        raise ValueError(f"scores of shape {values.shape}, labels of shape {given.shape}; give one label per score")
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    if given.dtype != np.bool_ and not np.isin(given, (0, 1)).all():
        odd = given[~np.isin(given, (0, 1))][0]
        raise ValueError(f"label {odd!r} is neither 0 nor 1; give 1 for targets and 0 for non-targets")
    wanted = given.astype(np.bool_, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        place = int(np.argmin(finite))
        raise ValueError(f"the score of trial {place + 1} is {values[place]}; only finite scores can be ranked")
    if not wanted.any() or wanted.all():
        targets = int(wanted.sum())
        raise ValueError(
            f"{targets} target and {len(wanted) - targets} non-target trials: error rates need both; "
            "add trials of the other class"
        )
    return values, wanted


def default_cost(p_target: float, c_miss: float, c_fa: float) -> float:
    """Cost of the better of accepting and rejecting everything, which normalised costs are divided by.

    ValueError unless the prior lies between 0 and 1 and both costs are positive.
    """
    if not 0.0 < p_target < 1.0:
        raise ValueError(f"p_target {p_target} is no prior; choose one between 0 and 1, such as 0.01")
    if not (c_miss > 0.0 and c_fa > 0.0):
        raise ValueError(f"costs of {c_miss} (miss) and {c_fa} (false alarm); both must be positive")
    return min(c_miss * p_target, c_fa * (1.0 - p_target))


def probit(rates: np.ndarray) -> np.ndarray:
    """Quantiles of the standard normal distribution, the scale of both axes of a DET plot (Martin et al., 1997).

    rates: (point,) in (0, 1); meant for the few hundred points of a plot.
    """
    return np.fromiter(map(NormalDist().inv_cdf, rates.tolist()), np.float64, len(rates))


def det_points(curve: DetectionCurve) -> tuple[np.ndarray, np.ndarray]:
    """False-alarm and miss rates of the points that a DET plot shows: (point,) each, by rising threshold.

    At most a few hundred, evenly spread along the probit axes. Rates of 0 and 1, which those axes cannot show, are moved inwards
    by half a trial.
    """
    grid = np.fromiter(map(NormalDist().cdf, np.linspace(-5, 5, _DET_POINTS).tolist()), np.float64, _DET_POINTS)
    miss, false_alarm = curve.miss_rate, curve.false_alarm_rate
    by_miss = np.searchsorted(miss, grid)
    by_false_alarm = len(false_alarm) - 1 - np.searchsorted(false_alarm[::-1], grid)
    shown = np.unique(np.concatenate([by_miss, by_false_alarm]).clip(0, len(miss) - 1))
    half = 0.5 / curve.num_nontarget, 0.5 / curve.num_target
    return false_alarm[shown].clip(half[0], 1 - half[0]), miss[shown].clip(half[1], 1 - half[1])


def bootstrap_intervals(
    scores: np.ndarray,
    labels: np.ndarray,
    statistics: Mapping[str, Callable[[DetectionCurve], float]],
    *,
    generator: np.random.Generator,
    num_samples: int = 1000,
    speakers: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of statistics of a detection curve over resampled trials or speakers (Efron, 1979).

    Trials are drawn with replacement within targets and within non-targets. That takes them for independent, which trials that
    share speakers are not; with `speakers`, (enrolment, test) speaker numbers of each trial, speakers are drawn instead, and the
    intervals get wider. A trial then counts as often as its two speakers were drawn, multiplied; one within a speaker as often as
    the speaker, as if each draw were another person. A draw that leaves no target or no non-target is drawn again.

    statistics: functions of the curve by name. ValueError where `num_samples` is too small for the level.
    """
    tail = checked_tail(num_samples, level)
    values, wanted = checked_trials(scores, labels)
    distinct, point = np.unique(values, return_inverse=True)
    draw = _trial_draws(point, wanted) if speakers is None else _speaker_draws(point, wanted, speakers)
    found: dict[str, list[float]] = {name: [] for name in statistics}
    for _ in range(num_samples):
        curve = _curve_of_counts(distinct, *draw(generator))
        for name, statistic in statistics.items():
            found[name].append(statistic(curve))
    with np.errstate(invalid="ignore"):  # of a statistic that a resample makes infinite
        ends = {name: np.quantile(rows, (tail, 1.0 - tail)) for name, rows in found.items()}
    return {name: Interval(float(low), float(high)) for name, (low, high) in ends.items()}


def checked_tail(num_samples: int, level: float = 0.95) -> float:
    """Share of the samples beyond either end of an interval; ValueError where that is not one sample."""
    tail = (1.0 - level) / 2.0
    if not 0.0 < level < 1.0:
        raise ValueError(f"an interval of level {level} holds nothing or everything; choose one such as 0.95")
    if num_samples * tail < 1.0:
        raise ValueError(
            f"{num_samples} bootstrap samples cannot show a {100 * level:g} % interval; draw {int(np.ceil(1 / tail))} or more"
        )
    return tail


def _curve_of_counts(distinct: np.ndarray, targets: np.ndarray, nontargets: np.ndarray) -> DetectionCurve:
    """targets, nontargets: (score,) int64, trials at each distinct score."""
    misses = np.concatenate([[0], np.cumsum(targets)])
    rejected = np.concatenate([[0], np.cumsum(nontargets)])
    return DetectionCurve(distinct, misses, rejected[-1] - rejected)


def _trial_draws(
    point: np.ndarray, wanted: np.ndarray
) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    size = int(point.max()) + 1
    classes = [point[wanted], point[~wanted]]

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        targets, nontargets = (
            np.bincount(members[generator.integers(0, len(members), len(members))], minlength=size)
            for members in classes
        )
        return targets, nontargets

    return draw


def _speaker_draws(
    point: np.ndarray, wanted: np.ndarray, speakers: tuple[np.ndarray, np.ndarray]
) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    size = int(point.max()) + 1
    present, sides = np.unique(np.concatenate(speakers), return_inverse=True)
    if len(sides) != 2 * len(point):
        raise ValueError(f"{len(sides)} speakers for {len(point)} trials; give one per side of each trial")
    if len(present) < 2:
        raise ValueError("all trials are of one speaker; speakers can only be resampled where there are several")
    enrol, test = sides[: len(point)], sides[len(point) :]
    within = enrol == test

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        while True:
            times = np.bincount(generator.integers(0, len(present), len(present)), minlength=len(present))
            weight = times[enrol] * np.where(within, 1, times[test])
            # Sums of whole numbers in float64 are exact up to 2^53.
            targets, nontargets = (
                np.bincount(point, weights=weight * chosen, minlength=size).astype(np.int64)
                for chosen in (wanted, ~wanted)
            )
            if targets.any() and nontargets.any():
                return targets, nontargets

    return draw
