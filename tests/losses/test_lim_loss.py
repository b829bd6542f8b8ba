"""LIM's three bounds against loops, and its draw of negatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.lim import lim, other_utterances


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_loops(first, second, other, bound):
    p = [cosine(a, b) for a, b in zip(first, second, strict=True)]
    n = [cosine(a, b) for a, b in zip(first, other, strict=True)]
    if bound == "bce":
        return np.mean([-math.log(sigmoid(x)) - math.log(1 - sigmoid(y)) for x, y in zip(p, n, strict=True)])
    if bound == "mine":
        return -(np.mean(p) - math.log(np.mean([math.exp(y) for y in n])))
    total = sum(math.exp(y) for y in n)
    return -np.mean([x - math.log(math.exp(x) + total) for x in p])


@pytest.mark.parametrize("bound", ["bce", "mine", "nce"])
def test_bounds_equal_loops(bound):
    data = rows(3, 5, 4)
    assert lim(*data, bound=bound).item() == pytest.approx(by_loops(*data.numpy(), bound), abs=1e-12)
    check_gradient(lambda a, b, c: lim(a, b, c, bound=bound), *data)
    check_half_precision(lambda a, b, c: lim(a, b, c, bound=bound), *data)


def test_others_are_drawn_uniformly_and_are_never_the_own_row():
    table, generator = torch.arange(5.0).unsqueeze(1), torch.Generator().manual_seed(0)
    drawn = torch.cat([other_utterances(table, generator=generator) for _ in range(2000)], dim=1).int()  # (row, draw)
    for own, row in enumerate(drawn):
        counts = torch.bincount(row, minlength=5)
        assert counts[own] == 0
        assert (counts[torch.arange(5) != own] - 500).abs().max() < 100


def test_others_have_a_gradient():
    table = rows(4, 3).requires_grad_()
    other_utterances(table, generator=torch.Generator().manual_seed(0)).sum().backward()
    assert table.grad.sum() == 12


def test_one_utterance_has_no_other():
    with pytest.raises(ValueError, match="a batch of 1 utterance has no negatives"):
        other_utterances(rows(1, 3), generator=torch.Generator())
