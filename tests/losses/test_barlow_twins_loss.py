"""Barlow Twins against loops over pairs of dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.barlow_twins import barlow_twins, cross_correlation


def by_loops(first, second, redundancy, scale, normalisation="batch"):
    count, dim = first.shape
    standard = []
    for given in (first, second):
        z = given
        if normalisation in ("latent", "both"):
            z = np.array([row * math.sqrt(dim / sum(x * x for x in row)) for row in z])
        if normalisation in ("batch", "both"):
            mean = sum(z) / count
            variance = sum((row - mean) ** 2 for row in z) / count
            z = [(row - mean) / np.sqrt(variance + 1e-5) for row in z]
        standard.append(z)
    total = 0.0
    for d in range(dim):
        for e in range(dim):
            c = sum(a[d] * b[e] for a, b in zip(*standard, strict=True)) / count
            total += (c - 1) ** 2 if d == e else redundancy * c * c
    return scale * total


def test_loss_equals_loops():
    first, second = rows(7, 4) * 3 + 1, rows(7, 4, seed=1)
    ours = [barlow_twins(first, second), barlow_twins(first, second, redundancy=0.05, scale=1.0)]
    oracle = [by_loops(first.numpy(), second.numpy(), 0.005, 0.025), by_loops(first.numpy(), second.numpy(), 0.05, 1)]
    assert [loss.item() for loss in ours] == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("normalisation", ["batch", "latent", "both"])
def test_each_normalisation_equals_loops(normalisation):
    first, second = rows(7, 4) * 3 + 1, rows(7, 4, seed=1)
    loss = barlow_twins(first, second, redundancy=0.05, scale=1.0, normalisation=normalisation)
    oracle = by_loops(first.numpy(), second.numpy(), 0.05, 1.0, normalisation)
    assert loss.item() == pytest.approx(oracle, abs=1e-12)
    others = {"batch", "latent", "both"} - {normalisation}
    assert all(abs(by_loops(first.numpy(), second.numpy(), 0.05, 1.0, name) - oracle) > 0.01 for name in others)


@pytest.mark.parametrize(("normalisation", "same"), [("batch", False), ("latent", True), ("both", True)])
def test_normalised_latents_leave_no_scale(normalisation, same):
    """Each embedding's own, that is; one that all of them share is never left."""
    first, second = rows(7, 4), rows(7, 4, seed=1)
    scales = torch.arange(1, 8, dtype=torch.float64).unsqueeze(1)
    losses = [barlow_twins(x, second, normalisation=normalisation).item() for x in (first, first * scales)]
    assert math.isclose(*losses, rel_tol=1e-9) == same


@pytest.mark.parametrize("normalisation", ["batch", "latent", "both"])
def test_equal_uncorrelated_views_cost_nothing(normalisation):
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert barlow_twins(signs, signs, scale=1.0, normalisation=normalisation).item() == pytest.approx(0, abs=1e-9)


def test_independent_views_have_correlations_of_one_over_the_batch():
    first, second = rows(256, 128), rows(256, 128, seed=1)
    square = cross_correlation(first, second).square()
    off = (square.sum() - square.diagonal().sum()) / (128 * 127)
    assert off.item() == pytest.approx(1 / 256, rel=0.05)
    assert math.isclose(square.mean().item(), 1 / 256, rel_tol=0.05)


def test_gradients_and_precision():
    check_gradient(lambda a, b: barlow_twins(a, b, redundancy=0.5, scale=1.0), *rows(2, 6, 3))
    check_half_precision(barlow_twins, *rows(2, 6, 8))
    for normalisation in ("latent", "both"):
        check_gradient(lambda a, b, n=normalisation: barlow_twins(a, b, scale=1.0, normalisation=n), *rows(2, 6, 3))


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="has no variance"):
        barlow_twins(*rows(2, 1, 4))


def test_another_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalisation 'none' is none of 'batch', 'latent' and 'both'"):
        barlow_twins(*rows(2, 4, 4), normalisation="none")
