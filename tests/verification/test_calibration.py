"""Calibration against the minimum that a general optimiser finds, and against ratios that are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from audiossl.metrics.act_dcf import act_dcf
from audiossl.metrics.cllr import cllr
from audiossl.metrics.min_dcf import min_dcf
from audiossl.verification.calibration import (
    Calibration,
    fit_calibration,
    load_calibration,
    quality_features,
    read_log_durations,
    save_calibration,
)
from audiossl.verification.trials import read_trials


def development(seed=0, count=3000):
    """Log-likelihood ratios of two Gaussians, squeezed as cosines are, and a measure that shifts them."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.2
    ratios = np.where(labels, 2, -2) + 2 * rng.standard_normal(
        count
    )  # means +-d/2, variance d: these are their own ratios
    quality = rng.standard_normal(count)
    return 0.1 * (ratios + quality) + 0.4, quality, ratios, labels


@pytest.mark.parametrize("prior", [0.01, 0.5])
@pytest.mark.parametrize("size", [1, 2])
def test_is_the_minimum_of_the_objective(prior, size):
    optimize = pytest.importorskip("scipy.optimize")
    scores, quality, _, labels = development(count=400)
    columns = np.stack([scores, quality], axis=1)[:, :size]
    logit = math.log(prior / (1 - prior))

    def objective(theta):
        total = 0.0
        for row, label in zip(columns.tolist(), labels.tolist(), strict=True):
            ratio = sum(w * x for w, x in zip(theta, row, strict=False)) + theta[-1]
            if label:
                total += prior / labels.sum() * np.logaddexp(0, -(ratio + logit))
            else:
                total += (1 - prior) / (~labels).sum() * np.logaddexp(0, ratio + logit)
        return total

    got = fit_calibration(columns, labels, names=("score", "q")[:size], prior=prior)
    mine = objective([*got.weights, got.bias])
    best = optimize.minimize(objective, [*got.weights, got.bias], method="Nelder-Mead", options={"maxfev": 150})
    assert mine <= best.fun + 1e-10
    for index in range(size + 1):
        for step in (-1e-3, 1e-3):
            theta = [*got.weights, got.bias]
            theta[index] += step
            assert objective(theta) > mine


def test_known_ratios_come_back():
    scores, quality, ratios, labels = development(count=100_000)
    calibration = fit_calibration(np.stack([scores, quality], axis=1), labels, names=("score", "q"), prior=0.5)
    np.testing.assert_allclose([*calibration.weights, calibration.bias], [10, -1, -4], atol=0.15)
    fresh_scores, fresh_quality, fresh, truth = development(1, 50_000)
    got = calibration.apply(np.stack([fresh_scores, fresh_quality], axis=1))
    assert cllr(got, truth) == pytest.approx(cllr(fresh, truth), abs=2e-3)
    assert cllr(fresh_scores, truth) > cllr(got, truth) + 0.2
    assert act_dcf(got, truth, p_target=0.1) < 1.05 * min_dcf(got, truth, p_target=0.1)
    assert ratios.std() > 1


def test_quality_measures_are_symmetric(tmp_path):
    (tmp_path / "trials").write_text("a b target\nb a target\nc a nontarget\n")
    trials = read_trials(tmp_path / "trials")
    values = {"a": 1.0, "b": 5.0, "c": 3.0}
    names, features = quality_features(trials, {"duration": np.array([values[name] for name in trials.names])})
    assert names == ["duration_min", "duration_max"]
    np.testing.assert_array_equal(features, [[1, 5], [1, 5], [1, 3]])
    assert quality_features(trials, {})[1].shape == (3, 0)


def test_log_durations(tmp_path):
    path = tmp_path / "utt2dur"
    path.write_text("a 2.5\nb 0\nc 10\n")
    np.testing.assert_allclose(read_log_durations(path, ["c", "a"]), [math.log(10), math.log(2.5)])
    for name in ("b", "d"):
        with pytest.raises(ValueError, match=f"no duration above 0 s of '{name}'"):
            read_log_durations(path, ["a", name])


def test_saved_as_json(tmp_path):
    calibration = Calibration(("score", "norm_min"), (1.5, 1 / 3), -2.0, 0.01)
    save_calibration(tmp_path / "c.json", calibration)
    assert load_calibration(tmp_path / "c.json") == calibration
    assert json.loads((tmp_path / "c.json").read_text())["weights"] == {"score": 1.5, "norm_min": 1 / 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "not a JSON object"),
        ('{"weights": {"norm": 1}, "bias": 0, "prior": 0.1}', "starts with 'score'"),
        ('{"weights": {"score": "big"}, "bias": 0, "prior": 0.1}', "score is 'big', not a number"),
        ('{"weights": {"score": 1}, "prior": 0.1}', "bias is None"),
        ('{"weights": {"score": -0.2}, "bias": 0, "prior": 0.1}', r"c.json: the weight of the score is -0.2, so that"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_calibration(tmp_path / "c.json")


def test_what_has_no_calibration_is_refused():
    scores, quality, _, labels = development(count=300)
    with pytest.raises(ValueError, match="no finite weights are best on these 300"):
        fit_calibration(labels[:, None] + 0.1 * scores[:, None], labels)
    with pytest.raises(ValueError, match="'q' is the same in all"):
        fit_calibration(np.stack([scores, np.ones(300)], axis=1), labels, names=("score", "q"))
    with pytest.raises(ValueError, match="0 target and 300 non-target"):
        fit_calibration(scores[:, None], np.zeros(300, bool))
    with pytest.raises(ValueError, match=r"features of shape \(300, 1\) for 2 names"):
        fit_calibration(scores[:, None], labels, names=("score", "q"))
    with pytest.raises(ValueError, match="prior 1 is none"):
        fit_calibration(scores[:, None], labels, prior=1)
    with pytest.raises(ValueError, match=r"fitted on 300 development trials: the weight of the score is -\d"):
        fit_calibration(-scores[:, None], labels)
    with pytest.raises(ValueError, match="the calibration is for score"):
        fit_calibration(scores[:, None], labels).apply(quality)
