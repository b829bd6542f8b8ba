"""VICReg against loops over dimensions, and its zeros."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.vicreg import vicreg, vicreg_terms


def by_loops(first, second):
    terms = [np.mean([(a - b) ** 2 for a, b in zip(first.ravel(), second.ravel(), strict=True)]), 0.0, 0.0]
    for z in (first, second):
        count, dim = z.shape
        mean = [sum(z[:, d]) / count for d in range(dim)]
        for d in range(dim):
            variance = sum((z[n, d] - mean[d]) ** 2 for n in range(count)) / (count - 1)
            terms[1] += max(0.0, 1 - math.sqrt(variance + 1e-4)) / dim
            for e in range(dim):
                if e != d:
                    c = sum((z[n, d] - mean[d]) * (z[n, e] - mean[e]) for n in range(count)) / (count - 1)
                    terms[2] += c * c / dim
    return terms


def example():
    spread = torch.tensor([0.3, 1.0, 2.0, 0.8], dtype=torch.float64)
    return rows(6, 4) * spread, rows(6, 4, seed=1) * spread + 3


def test_terms_equal_loops():
    first, second = example()
    oracle = by_loops(first.numpy(), second.numpy())
    assert [term.item() for term in vicreg_terms(first, second)] == pytest.approx(oracle, abs=1e-12)
    assert vicreg(first, second).item() == pytest.approx(oracle[0] + oracle[1] + 0.04 * oracle[2], abs=1e-12)
    weighted = vicreg(first, second, invariance=25, variance=12.5, covariance=1)
    assert weighted.item() == pytest.approx(25 * oracle[0] + 12.5 * oracle[1] + oracle[2], abs=1e-12)


def test_variance_and_covariance_vanish_for_standard_uncorrelated_rows():
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    standard = signs * math.sqrt(3 / 4)  # deviation 1 with rows - 1 below
    terms = vicreg_terms(standard, standard)
    assert [term.item() for term in terms] == [0, 0, 0]
    assert vicreg_terms(standard * 0.5, standard).variance.item() == pytest.approx(1 - math.sqrt(0.2501), abs=1e-12)


def test_collapse_costs_the_floor():
    same = torch.ones(5, 3)
    assert vicreg_terms(same, same).variance.item() == pytest.approx(2 * 0.99, abs=1e-6)
    assert vicreg_terms(same, same, floor=2).variance.item() == pytest.approx(2 * 1.99, abs=1e-6)


def test_gradients_and_precision():
    check_gradient(vicreg, *example())
    check_half_precision(vicreg, *rows(2, 6, 8))


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="a batch of 1 utterance has no variance; raise data.batch_seconds"):
        vicreg(*rows(2, 1, 4))
