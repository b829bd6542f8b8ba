"""AdaFace against its definition per anchor, and its running statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.margins.adaface import AdaFace, adaface_margin

NORMS = [0.0, 15.0, 22.0, 60.0, 400.0]


def oracle(p, quality, m):
    theta = min(max(math.acos(p) - m * quality, 1e-3), math.pi - 1e-3)
    return math.cos(theta) - (m + m * quality)


@pytest.mark.parametrize("quality", [-1.0, -0.3, 0.0, 0.8, 1.0])
def test_values_over_the_whole_range(quality):
    points = torch.linspace(-1, 1, 101, dtype=torch.float64)
    ours = adaface_margin(points, quality, 0.4)
    np.testing.assert_allclose(ours, [oracle(p, quality, 0.4) for p in points.tolist()], atol=1e-9)


def test_ends_of_the_scale():
    points = torch.linspace(-0.9, 0.9, 19, dtype=torch.float64)
    np.testing.assert_allclose(adaface_margin(points, 0.0, 0.2), points - 0.2, atol=1e-12)
    np.testing.assert_allclose(adaface_margin(points, -1.0, 0.2), np.cos(np.arccos(points.numpy()) + 0.2), atol=1e-12)


def test_running_statistics_and_the_margin_that_follows_from_them():
    cosines = torch.tensor([[0.3, 0.1]] * 5, dtype=torch.float64)
    positive = torch.tensor([[True, False]]).repeat(5, 1)
    margin, norms = AdaFace(AdaFace.Config(margin=0.4)), torch.tensor(NORMS, dtype=torch.float64)
    clipped = np.clip(NORMS, 1e-3, 100)
    mean, deviation = 20.0, 100.0
    for _ in range(3):
        result = margin(cosines, positive, norms)
        mean = 0.99 * mean + 0.01 * clipped.mean()
        deviation = 0.99 * deviation + 0.01 * clipped.std(ddof=1)
    assert margin.norm_mean.item() == pytest.approx(mean, rel=1e-6)
    assert margin.norm_deviation.item() == pytest.approx(deviation, rel=1e-6)
    quality = np.clip((clipped - mean) / (deviation + 1e-3) * 0.333, -1, 1)
    np.testing.assert_allclose(result.cosines[:, 0], [oracle(0.3, q, 0.4) for q in quality], atol=1e-6)
    assert (result.cosines[:, 1] == 0.1).all()


def test_what_leaves_the_statistics_alone():
    margin, one = AdaFace(AdaFace.Config()), torch.ones(1, 1, dtype=torch.bool)
    margin(torch.tensor([[0.5]]), one, torch.tensor([50.0]))
    margin.eval()(torch.tensor([[0.5], [0.2]]), one, torch.tensor([50.0, 3.0]))
    assert (margin.norm_mean, margin.norm_deviation) == (20, 100)


def test_gradient_passes_by_the_lengths():
    norms = torch.tensor([15.0, 60.0], requires_grad=True)
    cosines = torch.tensor([[0.5], [0.2]], requires_grad=True)
    result = AdaFace(AdaFace.Config())(cosines, torch.ones(2, 1, dtype=torch.bool), norms)
    assert torch.autograd.grad(result.cosines.sum(), [cosines, norms], allow_unused=True)[1] is None
    points = torch.tensor([-0.9, 0.2, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: adaface_margin(p, 0.5, 0.3), points)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="concentration 0 must be positive"):
        AdaFace.Config(concentration=0)
