"""CurricularFace against loops over anchors and candidates, and its running level."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.margins.curricularface import CurricularFace, curricularface_margin


def oracle(cosines, positive, margin, level):
    out = np.array(cosines)
    for a, row in enumerate(cosines):
        thresholds = [
            math.cos(math.acos(p) + margin) for p, is_positive in zip(row, positive[a], strict=True) if is_positive
        ]
        for c, value in enumerate(row):
            if positive[a][c]:
                folded = value <= math.cos(math.pi - margin)
                out[a, c] = value - margin * math.sin(margin) if folded else math.cos(math.acos(value) + margin)
            elif thresholds and value > min(thresholds):
                out[a, c] = value * (level + value)
    return out


def example():
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(5, 7, generator=generator, dtype=torch.float64) * 1.98 - 0.99
    positive = torch.rand(5, 7, generator=generator) < 0.3
    positive[4] = False
    return cosines, positive


def test_values_equal_loops():
    cosines, positive = example()
    ours = curricularface_margin(cosines, positive, 0.4, 0.3)
    np.testing.assert_allclose(ours, oracle(cosines.numpy(), positive.numpy(), 0.4, 0.3), atol=1e-12)
    hard = (ours != cosines) & ~positive
    assert hard.any()
    assert not hard[4].any()
    assert not hard[(~positive).nonzero(as_tuple=True)].all()


def test_gradient():
    cosines, positive = example()
    cosines = cosines.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: curricularface_margin(c, positive, 0.4, 0.3), cosines)


def test_level_is_a_running_mean_of_positive_cosines():
    cosines, positive = example()
    margin = CurricularFace(CurricularFace.Config(margin=0.4))
    level, mean = 0.0, np.mean(cosines.numpy()[positive.numpy()])
    for _ in range(3):
        result = margin(cosines, positive, torch.ones(5))
        level = 0.99 * level + 0.01 * mean
        assert margin.level.item() == pytest.approx(level, abs=1e-7)
    np.testing.assert_allclose(result.cosines, oracle(cosines.numpy(), positive.numpy(), 0.4, level), atol=1e-6)
    margin.eval()(cosines, positive, torch.ones(5))
    margin.train()(cosines, torch.zeros_like(positive), torch.ones(5))  # no positives: nothing to learn from
    assert margin.level.item() == pytest.approx(level, abs=1e-7)


def test_momentum_out_of_range():
    with pytest.raises(ValueError, match=r"margin.momentum: 1.5 is not between 0 and 1"):
        CurricularFace.Config(momentum=1.5)
