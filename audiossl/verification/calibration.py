"""Calibration: scores, and measures of the utterances' quality, into log-likelihood ratios by logistic regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json_table, write_json
from audiossl.data.kaldi import parse_seconds, read_table
from audiossl.metrics._detection import checked_trials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from audiossl.verification.trials import Trials

SCORE = "score"
_ITERATIONS = 100
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Calibration:
    """An affine map from features to log-likelihood ratios.

    features: their names, `score` first. weights: one for each. bias: added. prior: target prior at which it was fitted.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    prior: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(trial, feature) -> (trial,) float64 natural-log likelihood ratios."""
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise ValueError(
                f"features of shape {features.shape}, the calibration is for {', '.join(self.features)}; give (trial, feature)"
            )
        ratios: np.ndarray = features @ np.array(self.weights) + self.bias
        return ratios


def fit_calibration(
    features: np.ndarray, labels: np.ndarray, *, names: Sequence[str] = (SCORE,), prior: float = 0.01
) -> Calibration:
    """Fit weights and bias by prior-weighted logistic regression (Bruemmer et al., 2007).

    Minimises P mean_targets log(1 + e^-(l + logit P)) + (1 - P) mean_nontargets log(1 + e^(l + logit P)), with P the prior and l the
    affine map, by Newton's method with halved steps. features: (trial, feature) of development trials. labels: (trial,) bool, or 0 and 1.
    ValueError for constant features, where the features tell the trials apart without an error, as no finite weights are best then, and
    where a higher score would make a target less likely.
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior {prior} is none; choose one between 0 and 1, such as 0.01")
    columns = np.asarray(features, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[1] != len(names):
        raise ValueError(f"features of shape {columns.shape} for {len(names)} names; give (trial, feature)")
    for column in columns.T:
        _, wanted = checked_trials(column, labels)
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    if (scale <= 1e-12 * np.abs(centre)).any():
        name = names[int(np.argmin(scale > 1e-12 * np.abs(centre)))]
        raise ValueError(f"the feature {name!r} is the same in all development trials; leave it out")
    # Standardised: Newton's steps are then of a size, and the map is unfolded at the end.
    X = np.column_stack([(columns - centre) / scale, np.ones(len(columns))])
    solution = _newton(X, wanted, prior)
    weights = solution[:-1] / scale
    bias = float(solution[-1] - weights @ centre)
    _require_upright(float(weights[0]), f"calibration fitted on {len(X)} development trials")
    return Calibration(tuple(names), tuple(weights.tolist()), bias, prior)


def quality_features(trials: Trials, measures: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Lay out quality measures as features of trials (Thienpondt et al., 2021): the smaller and the larger of the two sides.

    measures: name -> (utterance,) float64 in the order of `trials.names`, such as log-durations, lengths of embeddings or mean cohort
    scores. Returns the features' names and (trial, 2 * measure) values; which side is the enrolment makes no difference.
    """
    names, columns = [], []
    for name, values in measures.items():
        enrol, test = values[trials.enrol], values[trials.test]
        names += [f"{name}_min", f"{name}_max"]
        columns += [np.minimum(enrol, test), np.maximum(enrol, test)]
    return names, np.column_stack(columns) if columns else np.empty((len(trials), 0))


def read_log_durations(path: Path, names: Sequence[str]) -> np.ndarray:
    """(name,) float64, the logarithm of each utterance's seconds by a Kaldi `utt2dur`; ValueError where one has none above 0."""
    seconds = {key: parse_seconds(value) for _, key, value in read_table(path)}
    found = np.array([seconds.get(name, math.nan) for name in names])
    if not (found > 0).all():
        name = names[int(np.argmin(found > 0))]
        raise ValueError(f"{path}: says no duration above 0 s of {name!r}; add `utterance seconds`")
    logarithms: np.ndarray = np.log(found)
    return logarithms


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON, atomically."""
    weights = dict(zip(calibration.features, calibration.weights, strict=True))
    write_json(path, {"weights": weights, "bias": calibration.bias, "prior": calibration.prior})


def load_calibration(path: Path) -> Calibration:
    """Read a calibration; ValueError names what it lacks."""
    cure = "fit it again"
    table = read_json_table(path, cure)
    weights = table.get("weights")
    if not isinstance(weights, dict) or next(iter(weights), None) != SCORE:
        raise ValueError(f"{path}: has no table `weights` that starts with {SCORE!r}; {cure}")
    numbers: dict[str, Any] = {"bias": table.get("bias"), "prior": table.get("prior"), **weights}
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path}: {name} is {value!r}, not a number; {cure}")
    _require_upright(float(weights[SCORE]), f"{path}")
    return Calibration(tuple(weights), tuple(map(float, weights.values())), float(table["bias"]), float(table["prior"]))


def _require_upright(weight: float, place: str) -> None:
    """Raise ValueError where a calibration turns scores over, which makes an error rate of 40 % one of 60 %, or the reverse."""
    if weight <= 0:
        raise ValueError(
            f"{place}: the weight of the score is {weight:.4g}, so that a higher score makes a target less likely; check that targets and "
            "non-targets are not exchanged, and calibrate on trials that the scores tell apart"
        )


def _newton(X: np.ndarray, wanted: np.ndarray, prior: float) -> np.ndarray:
    """Minimise the objective over the weights of the columns of X, the last of which is constant."""
    shift = math.log(prior) - math.log1p(-prior)
    sign = np.where(wanted, 1.0, -1.0)
    share = np.where(wanted, prior / wanted.sum(), (1.0 - prior) / (~wanted).sum())
    theta = np.zeros(X.shape[1])

    def objective(candidate: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (X @ candidate + shift)
        return float(share @ np.logaddexp(0.0, -margin)), margin

    value, margin = objective(theta)
    for _ in range(_ITERATIONS):
        wrong = np.exp(-np.logaddexp(0.0, margin))  # probability of the other class
        gradient = -(X.T @ (share * sign * wrong))
        curvature = (X * (share * wrong * (1.0 - wrong))[:, None]).T @ X
        if (margin > 0).all() and value < 1e-6:
            break
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            break
        if float(gradient @ step) <= _TOLERANCE * max(value, _TOLERANCE):
            return theta
        size = 1.0
        while size > 1e-6:
            lower, moved = objective(theta - size * step)
            if lower < value:
                break
            size /= 2
        else:
            return theta
        theta, value, margin = theta - size * step, lower, moved
    raise ValueError(
        f"calibration: no finite weights are best on these {len(X)} development trials, as their features separate targets from "
        "non-targets or repeat one another; give more and harder trials, or fewer features"
    )
