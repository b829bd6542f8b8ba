from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from audiossl.losses.permutation_free_mse import permutation_free_mse

LENGTHS = [5, 3, 1]


def inputs(sources, seed=0):
    generator = torch.Generator().manual_seed(seed)
    estimates, targets = (torch.rand(3, 5, 4, sources, generator=generator) for _ in range(2))
    return estimates, targets, torch.tensor(LENGTHS)


def by_hand(estimates, targets, lengths):
    for row, length in enumerate(lengths):
        best = np.inf
        for order in permutations(range(estimates.shape[3])):
            total = 0.0
            for output, source in enumerate(order):
                difference = estimates[row, :length, :, output].double() - targets[row, :length, :, source].double()
                total += float((difference.numpy() ** 2).sum())
            best = min(best, total / (length * estimates.shape[3]))
        yield best


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_it_is_the_least_error_of_all_orders(sources):
    estimates, targets, lengths = inputs(sources)
    found = permutation_free_mse(estimates, targets, lengths)
    assert found.tolist() == pytest.approx(list(by_hand(estimates, targets, LENGTHS)), rel=1e-5)


def test_one_order_holds_for_a_whole_utterance():
    targets = torch.rand(1, 6, 4, 2)
    estimates = torch.cat([targets[:, :3], targets[:, 3:].flip(3)], dim=1)  # sources swap half-way
    assert permutation_free_mse(estimates, targets, torch.tensor([6])) > 0
    assert permutation_free_mse(targets.flip(3), targets, torch.tensor([6])) == 0


def test_padding_has_no_influence_and_no_gradient():
    estimates, targets, lengths = inputs(2)
    other, wrong = estimates.clone(), targets.clone()
    other[1, 3:], wrong[1, 3:] = torch.inf, torch.nan
    other.requires_grad_(True)
    found = permutation_free_mse(other, wrong, lengths)
    torch.testing.assert_close(found, permutation_free_mse(estimates, targets, lengths))
    found.sum().backward()
    assert not other.grad[1, 3:].any()
    assert other.grad[1, :3].all()


def test_an_utterance_without_frames_has_no_error():
    estimates, targets, _ = inputs(2)
    found = permutation_free_mse(estimates, targets, torch.zeros(len(estimates), dtype=torch.long))
    assert not found.any()


def test_half_precision_is_computed_in_float32():
    estimates, targets, lengths = inputs(2)
    assert permutation_free_mse(estimates.half(), targets.half(), lengths).dtype == torch.float32


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        permutation_free_mse(torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 3, 1), torch.tensor([2]))
