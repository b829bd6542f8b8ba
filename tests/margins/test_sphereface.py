"""SphereFace's angle function against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.margins.sphereface import SphereFace, sphereface_margin


def oracle(p, m):
    theta = math.acos(p)
    k = math.floor(m * theta / math.pi)
    return (-1) ** k * math.cos(m * theta) - 2 * k


@pytest.mark.parametrize("margin", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("straight_through", [True, False])
def test_values_fall_over_the_whole_range(margin, straight_through):
    points = torch.linspace(1, -1, 333, dtype=torch.float64)
    ours = sphereface_margin(points, margin, straight_through=straight_through)
    np.testing.assert_allclose(ours, [oracle(p, margin) for p in points.tolist()], atol=1e-6)
    assert (ours.diff() < 0).all()


def test_gradient_is_that_of_the_cosine_or_of_psi():
    points = torch.tensor([-0.9, -0.3, 0.2, 0.8], dtype=torch.float64, requires_grad=True)
    passed = torch.autograd.grad(sphereface_margin(points, 1.5).sum(), points)[0]
    assert passed.tolist() == [1] * 4
    assert torch.autograd.gradcheck(lambda p: sphereface_margin(p, 1.5, straight_through=False), points)


def test_learning_needs_the_true_gradient():
    with pytest.raises(ValueError, match="straight_through = false"):
        SphereFace.Config(learnable=True)
    with pytest.raises(ValueError, match=r"margin 0.5 and ramp_steps 0 must be at least 1 and 0"):
        SphereFace.Config(margin=0.5)
