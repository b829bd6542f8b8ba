"""VIbCReg against NumPy's correlation matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.vibcreg import vibcreg, vibcreg_terms
from audiossl.losses.vicreg import vicreg_terms


def by_numpy(z):
    correlation = np.corrcoef(z.T)
    return np.mean(
        [[0 if d == e else correlation[d, e] ** 2 for d in range(len(correlation))] for e in range(len(correlation))]
    )


def test_covariance_term_is_the_mean_square_correlation():
    first, second = rows(6, 4) * torch.tensor([0.1, 1, 5, 2]), rows(6, 4, seed=1)
    terms, plain = vibcreg_terms(first, second), vicreg_terms(first, second)
    assert terms.covariance.item() == pytest.approx(by_numpy(first.numpy()) + by_numpy(second.numpy()), abs=1e-12)
    assert (terms.invariance, terms.variance) == (plain.invariance, plain.variance)
    total = terms.invariance + terms.variance + 8 * terms.covariance
    assert vibcreg(first, second).item() == pytest.approx(total.item(), abs=1e-12)


def test_scale_of_a_dimension_does_not_matter_for_correlations():
    first = rows(6, 4)
    scaled = first * torch.tensor([10, 0.1, 3, 7])
    torch.testing.assert_close(vibcreg_terms(first, first).covariance, vibcreg_terms(scaled, scaled).covariance)


def test_constant_dimension_is_finite():
    first = rows(6, 4).float()
    first[:, 2] = 1.5
    first.requires_grad_()
    loss = vibcreg(first, first)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, first)[0].isfinite().all()


def test_gradients_and_precision():
    check_gradient(vibcreg, *rows(2, 6, 3))
    check_half_precision(vibcreg, *rows(2, 6, 8))
