"""W-MSE against a Cholesky factor written out, and what whitening promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.w_mse import w_mse, whiten


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def whitened(x, shrinkage=0.0):
    count, dim = x.shape
    centred = x - x.mean(axis=0)
    covariance = (1 - shrinkage) * centred.T @ centred / (count - 1) + shrinkage * np.eye(dim)
    factor = np.zeros((dim, dim))
    for i in range(dim):  # Cholesky and Banachiewicz
        for j in range(i + 1):
            rest = covariance[i, j] - factor[i, :j] @ factor[j, :j]
            factor[i, j] = np.sqrt(rest) if i == j else rest / factor[j, j]
    return np.array([np.linalg.inv(factor) @ row for row in centred])


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_loss_equals_loops_over_groups(shrinkage):
    first, second = rows(14, 3), rows(14, 3, seed=1)
    order = torch.randperm(14, generator=seeded(5)).numpy()[:12].reshape(2, 6)  # two rows are left over
    cosines = []
    for group in order:
        views = [whitened(x.numpy()[group], shrinkage) for x in (first, second)]
        cosines += [cosine(a, b) for a, b in zip(*views, strict=True)]
    loss = w_mse(first, second, generator=seeded(5), group_size=6, shrinkage=shrinkage)
    assert loss.item() == pytest.approx(2 - 2 * np.mean(cosines), abs=1e-10)


def test_whitened_rows_have_the_identity_as_covariance():
    mixed = (rows(2, 128, 16) @ rows(16, 16, seed=1) + 5).float()
    for group in whiten(mixed):
        torch.testing.assert_close(torch.cov(group.T), torch.eye(16), atol=1e-5, rtol=0)
        torch.testing.assert_close(group.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)


def test_equal_views_cost_nothing_and_groups_are_drawn_anew():
    first, second = rows(12, 3), rows(12, 3, seed=1)
    assert w_mse(first, first, generator=seeded(), group_size=6).item() == pytest.approx(0, abs=1e-12)
    generator = seeded()
    losses = {w_mse(first, second, generator=generator, group_size=6).item() for _ in range(4)}
    assert len(losses) == 4


def test_collapse_is_an_error_that_says_so():
    constant = torch.full((8, 3), 0.1)
    with pytest.raises(ValueError, match=r"covariance of 8 rows of 3 dimensions is singular; raise group_size"):
        w_mse(constant, constant, generator=seeded(), group_size=8)
    assert w_mse(rows(8, 3), constant.double(), generator=seeded(), group_size=8, shrinkage=0.1).isfinite()


def test_too_small_a_batch_is_an_error():
    with pytest.raises(ValueError, match="12 utterances do not fill a group of 128; raise data.batch_seconds"):
        w_mse(*rows(2, 12, 3), generator=seeded())


def test_gradients_and_precision():
    check_gradient(lambda a, b: w_mse(a, b, generator=seeded(), group_size=8), *rows(2, 8, 2))
    check_half_precision(lambda a, b: w_mse(a, b, generator=seeded(), group_size=16), *rows(2, 16, 4))
