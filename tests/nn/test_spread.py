"""Spread tells healthy representations from collapsed ones."""

import numpy as np
import pytest
import torch

from audiossl.nn.spread import deviation, spread


def test_spread_shows_collapse():
    generator = torch.Generator().manual_seed(0)
    healthy = torch.randn(4000, 16, generator=generator) * torch.logspace(0, 3, 16)
    line = torch.randn(4000, 1, generator=generator) * torch.ones(16)

    def ratio(frames, name):
        total, count = spread(frames)[name]
        return float(total / count)

    r = np.corrcoef(healthy.numpy().T)
    assert ratio(healthy, "effective_rank") == pytest.approx(16**2 / (r**2).sum(), rel=1e-3)
    assert ratio(healthy, "effective_rank") > 15
    assert ratio(healthy, "embedding_std") == pytest.approx(healthy.numpy().std(0).mean(), rel=1e-4)
    assert ratio(line, "effective_rank") == pytest.approx(1, rel=1e-3)
    assert ratio(torch.ones(50, 16), "embedding_std") == 0
    assert ratio(torch.ones(50, 16), "effective_rank") == 0


def test_deviation_is_that_over_frames():
    frames = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(5) + 7
    total, count = deviation(frames)
    assert count == 30
    assert float(total / count) == pytest.approx(frames.numpy().std(0).mean(), rel=1e-5)
    assert deviation(torch.full((4, 3), 2.0))[0] == 0
    assert deviation(frames[:0]) == (0, 0)
