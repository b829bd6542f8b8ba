"""Schedules against their definitions."""

import math

import pytest

from audiossl.train.optim import OptimConfig, learning_rate


def test_linear_warms_up_and_decays_to_zero():
    config = OptimConfig(peak_lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)


def test_cosine_is_half_way_at_the_middle():
    config = OptimConfig(peak_lr=2.0, schedule="cosine", final_lr_ratio=0.1)
    assert learning_rate(50, 100, config) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(100, 100, config) == pytest.approx(0.2)


def test_tri_stage_phases():
    config = OptimConfig(peak_lr=3e-5, schedule="tri_stage")
    assert learning_rate(0, 1000, config) == pytest.approx(3e-7)
    assert learning_rate(100, 1000, config) == pytest.approx(3e-5)
    assert learning_rate(499, 1000, config) == pytest.approx(3e-5)
    assert learning_rate(750, 1000, config) == pytest.approx(3e-5 * math.sqrt(0.05))
    assert learning_rate(1000, 1000, config) == pytest.approx(3e-5 * 0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "tri_stage", "warmup_steps": 5}, "has its own warm-up"),
        ({"schedule": "tri_stage", "tri_stage": (0.1, 0.1, 0.1)}, "does not sum to 1"),
        ({"peak_lr": 0.0}, "is not positive"),
    ],
)
def test_contradictions_are_errors(values, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)
