"""Barlow Twins' objective is its loss on the projections of two crops."""

import numpy as np
import pytest
from two_crops import make, mean_of, noise, projected

from audiossl.losses.barlow_twins import barlow_twins
from audiossl.objectives.barlow_twins import BarlowTwins


def by_loops(first, second, redundancy, scale):
    """The paper's eq. 1 and 2 from the correlation of each pair of dimensions, with batch norm's 1e-5 in the variances."""
    first, second = (np.asarray(view, dtype=np.float64) for view in (first, second))
    total = 0.0
    for i in range(first.shape[1]):
        for j in range(first.shape[1]):
            a, b = first[:, i] - first[:, i].mean(), second[:, j] - second[:, j].mean()
            correlation = np.mean(a * b) / np.sqrt((np.mean(a**2) + 1e-5) * (np.mean(b**2) + 1e-5))
            total += (1 - correlation) ** 2 if i == j else redundancy * correlation**2
    return scale * total


def test_forward_is_the_loss_of_the_projections():
    module, batch = make(BarlowTwins, projector_dims=(10, 4), redundancy=0.3, scale=0.1), noise()
    output = module(batch)
    assert output.loss_sum.item() == pytest.approx(6 * by_loops(*projected(module, batch), 0.3, 0.1), rel=1e-4)
    assert output.count == 6
    on, off = (by_loops(*projected(module, batch), redundancy, 1.0) for redundancy in (0.0, 1.0))
    assert mean_of(output, "invariance") == pytest.approx(on / 4, rel=1e-4)
    assert mean_of(output, "redundancy") == pytest.approx((off - on) / 12, rel=1e-4)


@pytest.mark.parametrize("normalisation", ["latent", "both"])
def test_the_normalisation_is_the_losses(normalisation):
    module, batch = make(BarlowTwins, projector_dims=(10, 4), normalisation=normalisation), noise()
    expected = barlow_twins(*projected(module, batch), normalisation=normalisation)
    assert module(batch).loss_sum.item() == pytest.approx(6 * expected.item(), rel=1e-4)


def test_defaults_are_those_in_use():
    config = BarlowTwins.Config()
    assert (config.redundancy, config.scale, config.projector_dims) == (0.005, 0.025, (2048, 2048, 2048))
