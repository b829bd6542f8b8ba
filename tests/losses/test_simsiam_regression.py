"""SimSiam's loss against the two directions written out."""

from __future__ import annotations

import numpy as np
import pytest
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.simsiam_regression import simsiam_regression


def test_loss_is_the_mean_of_both_directions():
    p, z = rows(2, 5, 4), rows(2, 5, 4, seed=1)
    directions = [np.mean([-cosine(p[a, n], z[1 - a, n]) for n in range(5)]) for a in (0, 1)]
    assert simsiam_regression(p, z).item() == pytest.approx(np.mean(directions), abs=1e-12)
    assert simsiam_regression(p, p.flip(0)).item() == pytest.approx(-1, abs=1e-12)


def test_targets_get_no_gradient():
    p, z = rows(2, 5, 4).requires_grad_(), rows(2, 5, 4, seed=1).requires_grad_()
    simsiam_regression(p, z).backward()
    assert p.grad.any()
    assert z.grad is None


def test_gradients_and_precision():
    z = rows(2, 5, 4, seed=1)
    check_gradient(lambda p: simsiam_regression(p, z), rows(2, 5, 4))
    check_half_precision(simsiam_regression, rows(2, 5, 4), z)
