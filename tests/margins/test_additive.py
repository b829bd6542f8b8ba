"""The additive margin against subtraction, and as a stand-in for more negatives."""

from __future__ import annotations

import math

import pytest
import torch

from audiossl.losses.moco_contrast import moco_contrast
from audiossl.margins.additive import Additive, additive_margin, margin_of_more_negatives


def test_positives_lose_the_margin():
    cosines = torch.tensor([[0.5, -0.2, 0.9]], dtype=torch.float64)
    margin = Additive(Additive.Config(margin=0.25))
    result = margin(cosines, torch.tensor([[True, False, True]]), torch.ones(1))
    assert result.cosines.tolist() == [[0.25, -0.2, pytest.approx(0.65)]]
    assert additive_margin(cosines, 0.5).tolist() == [[0, -0.7, pytest.approx(0.4)]]


def test_margin_of_more_negatives_equals_repeating_them():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 8, generator=generator, dtype=torch.float64)
    queue = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    size = margin_of_more_negatives(temperature=0.1, present=5, simulated=35)
    margin = Additive(Additive.Config(margin=size))
    few = moco_contrast(query, key, queue, temperature=0.1, margin=margin)
    many = moco_contrast(query, key, queue.repeat(7, 1), temperature=0.1)
    torch.testing.assert_close(few, many, rtol=1e-6, atol=0)
    published = margin_of_more_negatives(temperature=0.03, present=510, simulated=65536)
    assert published == pytest.approx(0.03 * math.log(65536 / 510))
    with pytest.raises(ValueError, match="0 present negatives must be positive"):
        margin_of_more_negatives(temperature=0.1, present=0, simulated=5)
