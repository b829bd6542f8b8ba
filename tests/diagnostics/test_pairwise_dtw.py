"""Pairwise DTW against the table of one pair at a time, with its path walked back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.diagnostics.pairwise_dtw import pairwise_dtw


def by_loop(x, y):
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    local = np.arccos(np.clip(x @ y.T, -1, 1)) / math.pi
    cost = np.full(local.shape, np.inf)
    for i, j in np.ndindex(*local.shape):
        before = [
            cost[i - 1, j - 1] if i and j else np.inf,
            cost[i, j - 1] if j else np.inf,
            cost[i - 1, j] if i else np.inf,
        ]
        cost[i, j] = local[i, j] + (min(before) if i or j else 0.0)
    i, j, cells = local.shape[0] - 1, local.shape[1] - 1, 1
    while i or j:
        if i and j and cost[i - 1, j - 1] <= min(cost[i, j - 1], cost[i - 1, j]):
            i, j = i - 1, j - 1
        elif j and (not i or cost[i, j - 1] <= cost[i - 1, j]):
            j -= 1
        else:
            i -= 1
        cells += 1
    return cost[-1, -1] / cells


def stretches(rng, lengths, dim=5):
    return [torch.from_numpy(rng.standard_normal((length, dim))) for length in lengths]


@pytest.mark.parametrize("max_cells", [1, 200, 1 << 20])
def test_each_pair_as_if_it_were_alone(max_cells):
    rng = np.random.default_rng(0)
    first, second = stretches(rng, (1, 7, 3, 12, 3)), stretches(rng, (4, 1, 9))
    found = pairwise_dtw(first, second, max_cells=max_cells)
    wanted = [[by_loop(x.numpy(), y.numpy()) for y in second] for x in first]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


def test_equal_costs_prefer_the_diagonal():
    same = [torch.ones(4, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)]
    other = [torch.tensor([[1.0, -1, 0]] * 3, dtype=torch.float64)]  # at a right angle: every cell costs 1/2
    torch.testing.assert_close(pairwise_dtw(same, other), torch.full((2, 1), 0.5, dtype=torch.float64))
    assert pairwise_dtw(same, same).abs().max() < 1e-7


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="at least one"):
        pairwise_dtw([], [torch.ones(1, 2)])
    with pytest.raises(ValueError, match="at least one"):
        pairwise_dtw([torch.ones(0, 2)], [torch.ones(1, 2)])
