"""BYOL's loss against a loop over pairs of views."""

from __future__ import annotations

import numpy as np
import pytest
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.byol_regression import byol_regression


@pytest.mark.parametrize("views", [2, 3])
def test_loss_is_the_sum_over_ordered_pairs(views):
    q, k = rows(views, 5, 4), rows(views, 5, 4, seed=1)
    oracle = sum(
        np.mean([2 - 2 * cosine(q[a, n], k[b, n]) for n in range(5)])
        for a in range(views)
        for b in range(views)
        if a != b
    )
    assert byol_regression(q, k).item() == pytest.approx(oracle, abs=1e-12)


def test_range():
    q = rows(2, 5, 4)
    assert byol_regression(q, q.flip(0)).item() == pytest.approx(0, abs=1e-12)
    assert byol_regression(q, -7 * q.flip(0)).item() == pytest.approx(8, abs=1e-12)


def test_targets_get_no_gradient():
    q, k = rows(2, 5, 4).requires_grad_(), rows(2, 5, 4, seed=1).requires_grad_()
    byol_regression(q, k).backward()
    assert q.grad.any()
    assert k.grad is None


def test_gradients_and_precision():
    k = rows(2, 5, 4, seed=1)
    check_gradient(lambda q: byol_regression(q, k), rows(2, 5, 4))
    check_half_precision(byol_regression, rows(2, 5, 4), k)


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="1 view has no other to predict"):
        byol_regression(rows(1, 5, 4), rows(1, 5, 4))
