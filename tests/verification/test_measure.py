"""The measures of one report are those of the metrics, each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics.act_dcf import act_dcf
from audiossl.metrics.cllr import cllr
from audiossl.metrics.d_prime import d_prime
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.metrics.min_dcf import min_dcf
from audiossl.metrics.score_overlap import score_overlap
from audiossl.verification.measure import MeasureConfig, measure


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    labels = rng.random(500) < 0.3
    return rng.standard_normal(500) + 2 * labels, labels


def test_measures_are_the_metrics(trials):
    config = MeasureConfig("mean", 0.05, 10, 2, llr=True)
    found, curve = measure(*trials, config, generator=np.random.default_rng(0))
    costs = {"p_target": 0.05, "c_miss": 10, "c_fa": 2}
    assert found == {
        "eer": equal_error_rate(*trials, convention="mean"),
        "min_dcf": min_dcf(*trials, **costs),
        "min_dcf_raw": min_dcf(*trials, **costs, normalise=False),
        "score_overlap": score_overlap(*trials),
        "d_prime": d_prime(*trials),
        "act_dcf": act_dcf(*trials, **costs),
        "cllr": pytest.approx(cllr(*trials), rel=1e-12),
        "num_target": int(trials[1].sum()),
        "num_nontarget": int((~trials[1]).sum()),
    }
    assert curve.num_target == found["num_target"]


def test_costs_of_ratios_only_for_ratios_and_intervals_when_asked(trials):
    found, _ = measure(*trials, MeasureConfig(bootstrap=100), generator=np.random.default_rng(0))
    assert {"act_dcf", "cllr"}.isdisjoint(found)
    low, high = found["eer_interval"]
    assert low < found["eer"] < high
    assert {"min_dcf_interval", "min_dcf_raw_interval"} <= set(found)


def test_an_infinite_d_prime_is_left_out():
    labels = np.arange(6) < 3
    sure, _ = measure(labels.astype(float), labels, MeasureConfig(), generator=np.random.default_rng(0))
    assert "d_prime" not in sure
    assert sure["score_overlap"] == 0
    few = np.array([0.9, 0.9, 0.2, 0.1, 0.1, 0.1])  # all the same target in one resample of nine
    found, _ = measure(few, labels, MeasureConfig(bootstrap=100), generator=np.random.default_rng(0))
    assert found["d_prime"] > 0
    assert "d_prime_interval" not in found
    assert "eer_interval" in found


@pytest.mark.parametrize(("setting", "message"), [({"bootstrap": 10}, "40 or more"), ({"p_target": 2}, "no prior")])
def test_wrong_settings_show_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        MeasureConfig(**setting)
