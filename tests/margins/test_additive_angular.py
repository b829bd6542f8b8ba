"""The additive angular margin against arccos and cos, and its continuation near pi."""

from __future__ import annotations

import math

import pytest
import torch

from audiossl.losses.nt_xent import nt_xent
from audiossl.margins.additive_angular import AdditiveAngular, additive_angular_margin


def oracle(p, m):
    theta = math.acos(p)
    return math.cos(theta + m) if p > math.cos(math.pi - m) else p - m * math.sin(m)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.2])
def test_values_over_the_whole_range(margin):
    points = torch.linspace(-1, 1, 201, dtype=torch.float64)
    expected = torch.tensor([oracle(p, margin) for p in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(additive_angular_margin(points, margin), expected, rtol=0, atol=1e-9)
    if margin:
        assert (points < math.cos(math.pi - margin)).any()


def test_gradient():
    points = torch.tensor([-0.99, -0.6, 0.0, 0.4, 0.99], dtype=torch.float64, requires_grad=True)
    size = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(additive_angular_margin, (points, size))


def test_no_margin_is_the_plain_loss():
    views = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    assert nt_xent(*views, margin=AdditiveAngular(AdditiveAngular.Config(margin=0))) == nt_xent(*views)


def test_bf16_cosines_are_widened():
    cosines = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16)
    result = AdditiveAngular(AdditiveAngular.Config(margin=0.2))(cosines, torch.tensor([[True, True]]), torch.ones(1))
    expected = [[math.cos(0.2), math.cos(math.acos(0.5) + 0.2)]]
    torch.testing.assert_close(result.cosines, torch.tensor(expected), rtol=0, atol=1e-6)
