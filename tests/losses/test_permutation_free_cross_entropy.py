"""The permutation-free loss against every order of labels, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.permutation_free_cross_entropy import permutation_free_cross_entropy

LENGTHS = torch.tensor([8, 3, 5])


def example(outputs):
    logits = rows(3, 8, outputs, seed=1) * 2
    labels = torch.rand(3, 8, outputs, generator=torch.Generator().manual_seed(2)) < 0.4
    return logits, labels


def entropy(logit, label):
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if label else 1 - probability)


def brute_force(logits, labels):
    losses, orders = [], []
    for row, length in enumerate(LENGTHS.tolist()):
        sums = {}
        for order in itertools.permutations(range(logits.shape[2])):
            values = [
                entropy(logits[row, t, s].item(), labels[row, t, order[s]].item())
                for t in range(length)
                for s in range(logits.shape[2])
            ]
            sums[order] = sum(values) / logits.shape[2]
        best = min(sums, key=sums.get)
        losses.append(sums[best])
        orders.append(list(best))
    return losses, orders


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_equals_brute_force(outputs):
    logits, labels = example(outputs)
    losses, orders = brute_force(logits, labels)
    result = permutation_free_cross_entropy(logits, labels, LENGTHS)
    torch.testing.assert_close(result.loss, torch.tensor(losses, dtype=torch.float64), atol=1e-10, rtol=0)
    assert result.order.tolist() == orders


def test_neither_order_nor_padding_matters():
    logits, labels = example(2)
    plain = permutation_free_cross_entropy(logits, labels, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        logits[row, length:] = torch.nan
    swapped = permutation_free_cross_entropy(logits.flip(2), labels, LENGTHS)
    torch.testing.assert_close(swapped.loss, plain.loss)
    assert torch.equal(swapped.order, plain.order.flip(1))


def test_gradient_and_precision():
    logits, labels = example(2)
    check_gradient(lambda x: permutation_free_cross_entropy(x, labels, LENGTHS).loss, logits)
    check_half_precision(lambda x: permutation_free_cross_entropy(x, labels, LENGTHS).loss, logits.float())


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"logits \(1, 4, 2\) and labels \(1, 4, 3\) differ"):
        permutation_free_cross_entropy(torch.zeros(1, 4, 2), torch.zeros(1, 4, 3), torch.tensor([4]))
