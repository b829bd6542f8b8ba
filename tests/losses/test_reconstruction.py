"""MERT's and MAE's losses against loops over frames and values in float64, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from loss_oracles import check_half_precision, rows

from audiossl.losses.reconstruction import reconstruction
from audiossl.losses.sdsc import sdsc

KINDS = {
    "mert and mae: mse": {},
    "l1": {"mse_weight": 0.0, "l1_weight": 1.0},
    "sdsc": {"mse_weight": 0.0, "sdsc_weight": 1.0},
    "hybrid": {"mse_weight": 0.3, "sdsc_weight": 0.7, "sdsc_sharpness": 4.0},
    "all three": {"mse_weight": 0.5, "l1_weight": 0.2, "sdsc_weight": 2.0},
}
FRAMES, VALUES = 5, 7


def naive(estimate, target, mse_weight=1.0, l1_weight=0.0, sdsc_weight=0.0, sdsc_sharpness=10.0):
    """Losses and the gradients of sum_t (t + 1) loss_t by the estimate, value by value; derivatives written out by hand."""
    losses, gradient = [0.0] * FRAMES, torch.zeros(FRAMES, VALUES, dtype=torch.float64)
    for t in range(FRAMES):
        e, r = estimate[t].tolist(), target[t].tolist()
        agreement = [1 / (1 + math.exp(-sdsc_sharpness * a * b)) for a, b in zip(e, r, strict=True)]
        size = sum(abs(a) + abs(b) for a, b in zip(e, r, strict=True))
        common = 2 * sum(h * min(abs(a), abs(b)) for h, a, b in zip(agreement, e, r, strict=True))
        losses[t] = sdsc_weight * (1 - common / size)
        for d in range(VALUES):
            error, sign = e[d] - r[d], math.copysign(1, e[d])
            losses[t] += (mse_weight * error**2 + l1_weight * abs(error)) / VALUES
            smaller = min(abs(e[d]), abs(r[d]))
            grows = sdsc_sharpness * r[d] * agreement[d] * (1 - agreement[d]) * smaller
            grows += agreement[d] * sign * (abs(e[d]) < abs(r[d]))
            slope = (2 * mse_weight * error + l1_weight * math.copysign(1, error)) / VALUES
            gradient[t, d] = (t + 1) * (slope - sdsc_weight * (2 * grows / size - common * sign / size**2))
    return torch.tensor(losses, dtype=torch.float64), gradient


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_equal_the_naive_ones(kind):
    estimate, target = rows(FRAMES, VALUES), rows(FRAMES, VALUES, seed=1)
    leaf = estimate.clone().requires_grad_()
    loss = reconstruction(leaf, target, **KINDS[kind])
    (gradient,) = torch.autograd.grad((loss * torch.arange(1, FRAMES + 1)).sum(), [leaf])
    wanted, slope = naive(estimate, target, **KINDS[kind])
    torch.testing.assert_close(loss.detach(), wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-8)
    assert gradient.abs().max() > 1e-3


def test_structure_alone_is_sdsc():
    estimate, target = rows(FRAMES, VALUES), rows(FRAMES, VALUES, seed=1)
    alone = reconstruction(estimate, target, mse_weight=0.0, sdsc_weight=1.0)
    torch.testing.assert_close(alone, sdsc(estimate, target), rtol=0, atol=1e-12)
    smooth = reconstruction(estimate, target, mse_weight=0.0, sdsc_weight=1.0, sdsc_smooth=0.3)
    torch.testing.assert_close(smooth, sdsc(estimate, target, smooth=0.3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind):
    check_half_precision(lambda e, r: reconstruction(e, r, **KINDS[kind]), rows(4, 3), rows(4, 3, seed=1))


def test_no_frames_give_no_loss_and_a_gradient():
    estimate = rows(0, 3).requires_grad_()
    reconstruction(estimate, rows(0, 3), l1_weight=1.0, sdsc_weight=1.0).sum().backward()
    assert estimate.grad.shape == (0, 3)
