from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.positional import ConvPositions


@pytest.mark.parametrize("kernel", [8, 7])
def test_against_the_sum_over_taps(kernel):
    torch.manual_seed(0)
    positions = ConvPositions(6, kernel=kernel, groups=3)
    weight = positions.conv.weight.detach()  # (out, in / groups, tap)
    x = torch.randn(1, 11, 6)
    padded = F.pad(x[0], (0, 0, kernel // 2, kernel // 2))
    for t in range(11):
        for out in range(6):
            group = slice(out // 2 * 2, out // 2 * 2 + 2)
            expected = F.gelu((weight[out] * padded[t : t + kernel, group].t()).sum())
            torch.testing.assert_close(positions(x)[0, t, out], expected, atol=1e-6, rtol=1e-5)


def test_weight_norm_is_per_tap():
    positions = ConvPositions(32, kernel=16, groups=4)
    names = dict(positions.named_parameters())
    assert names["conv.parametrizations.weight.original0"].shape == (1, 1, 16)
    v = names["conv.parametrizations.weight.original1"]
    torch.testing.assert_close(names["conv.parametrizations.weight.original0"].flatten(), v.norm(dim=(0, 1)))
    assert v.std().item() == pytest.approx(math.sqrt(4 / (16 * 32)), rel=0.05)
    assert not positions.conv.bias.any()


def test_error():
    with pytest.raises(ValueError, match="position_groups 16"):
        ConvPositions(24)
