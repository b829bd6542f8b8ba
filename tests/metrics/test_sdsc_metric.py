import numpy as np
import pytest
import torch

from audiossl.losses.sdsc import sdsc as loss
from audiossl.metrics.sdsc import sdsc

SIGNAL = np.random.default_rng(0).standard_normal(400)


@pytest.mark.parametrize(("factor", "similarity"), [(1.0, 1.0), (-1.0, 0.0), (0.5, 2 / 3), (2.0, 2 / 3), (0.0, 0.0)])
def test_published_values(factor, similarity):
    assert sdsc(factor * SIGNAL, SIGNAL) == pytest.approx(similarity)


def test_sample_by_sample_and_beside_the_loss():
    other = np.random.default_rng(1).standard_normal(400)
    common = sum(2 * min(abs(a), abs(b)) for a, b in zip(SIGNAL, other, strict=True) if a * b > 0)
    assert sdsc(other, SIGNAL) == pytest.approx(common / sum(abs(SIGNAL) + abs(other)), abs=1e-12)
    assert sdsc(other, SIGNAL) == pytest.approx(
        1 - float(loss(torch.tensor(other), torch.tensor(SIGNAL), sharpness=None))
    )


def test_several_signals_give_their_mean():
    rows, others = np.random.default_rng(2).standard_normal((2, 3, 50))
    others[1] = rows[1] = 0
    assert sdsc(rows, others) == pytest.approx(np.mean([sdsc(a, b) for a, b in zip(rows, others, strict=True)]))


def test_a_small_inverted_signal_is_near_in_squares_and_not_alike():
    small = 0.05 * np.sin(np.arange(400) * 0.1)
    assert np.mean((small - -small) ** 2) == pytest.approx(0.005, abs=2e-4)
    assert sdsc(-small, small) == 0


def test_silence_and_shapes():
    assert sdsc(np.zeros(3), np.zeros(3)) == 0
    with pytest.raises(ValueError, match=r"shape \(3,\) for a reference of shape \(4,\)"):
        sdsc(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"give \(sample,\) or \(signal, sample\)"):
        sdsc(np.zeros((0, 3)), np.zeros((0, 3)))
