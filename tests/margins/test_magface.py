"""MagFace against its margin and penalty written out per anchor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.losses.nt_xent import nt_xent
from audiossl.margins.magface import MagFace, magface_margin

NORMS = [3.0, 10.0, 47.0, 110.0, 500.0]


def size(norm, low=0.01, high=0.05):
    a = min(max(norm, 10), 110)
    return low + (high - low) * (a - 10) / 100


def test_margin_grows_with_the_length():
    cosines = torch.full((5, 2), 0.3, dtype=torch.float64)
    positive = torch.tensor([[True, False]]).repeat(5, 1)
    result = MagFace(MagFace.Config(penalty_weight=35.0))(cosines, positive, torch.tensor(NORMS, dtype=torch.float64))
    np.testing.assert_allclose(result.cosines[:, 0], [math.cos(math.acos(0.3) + size(a)) for a in NORMS], atol=1e-7)
    assert (result.cosines[:, 1] == 0.3).all()
    clipped = np.clip(NORMS, 10, 110)
    np.testing.assert_allclose(result.penalty, 35 * (clipped / 110**2 + 1 / clipped), atol=1e-12)


def test_half_of_the_ramp_is_half_of_both_margins():
    margin = MagFace(MagFace.Config(ramp_steps=2))
    margin.after_step(1)
    cosines, norms = torch.full((5, 1), 0.3, dtype=torch.float64), torch.tensor(NORMS, dtype=torch.float64)
    ours = margin(cosines, torch.ones(5, 1, dtype=torch.bool), norms).cosines[:, 0]
    np.testing.assert_allclose(ours, [math.cos(math.acos(0.3) + size(a) / 2) for a in NORMS], atol=1e-7)


def test_gradient_reaches_lengths_inside_the_range():
    cosine = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    norms = torch.tensor([30.0, 80.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, a: magface_margin(c, a, lower_margin=0.1, upper_margin=0.7), (cosine, norms)
    )


def test_loss_depends_on_the_length_of_the_anchors_and_the_penalty_joins_it():
    views = torch.nn.functional.normalize(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    plain = MagFace(MagFace.Config(lower_margin=0.1, margin=0.5))
    assert nt_xent(*(views * 200), margin=plain) > nt_xent(*(views * 5), margin=plain) + 1
    weighted = MagFace(MagFace.Config(lower_margin=0.1, margin=0.5, penalty_weight=2.0))
    difference = nt_xent(*(views * 40), margin=weighted) - nt_xent(*(views * 40), margin=plain)
    assert difference.item() == pytest.approx(2 * (40 / 110**2 + 1 / 40), abs=1e-5)


def test_settings_out_of_order():
    with pytest.raises(ValueError, match=r"margin.lower_margin: 0.3 is not between 0 and margin, 0.05"):
        MagFace.Config(lower_margin=0.3)
    with pytest.raises(ValueError, match=r"norms 10.0 and 5 must be positive and rise"):
        MagFace.Config(upper_norm=5)
