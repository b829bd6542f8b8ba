"""wav2vec's loss against sums of log-sigmoids over frames, steps and negatives."""

from __future__ import annotations

import math

import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.step_binary_cross_entropy import step_binary_cross_entropy

LENGTHS = torch.tensor([9, 5, 2])


def example():
    generator = torch.Generator().manual_seed(3)
    predictions, targets = rows(3, 9, 4, 6, seed=1), rows(3, 9, 6, seed=2)
    negatives = torch.full((3, 9, 5), -1)
    for b, length in enumerate(LENGTHS.tolist()):
        negatives[b, :length] = torch.randint(length, (length, 5), generator=generator)
    return predictions, targets, negatives


def oracle(predictions, targets, negatives, offset):
    losses, decisions, right = [], [], []
    for b, length in enumerate(LENGTHS.tolist()):
        loss, count, hits = 0.0, 0, 0
        for t in range(length):
            for k in range(4):
                i = t + offset + k
                if i >= length:
                    continue
                h = predictions[b, t, k]
                own = float(h @ targets[b, i])
                others = [float(h @ targets[b, n]) for n in negatives[b, i].tolist()]
                loss += math.log1p(math.exp(-own)) + sum(math.log1p(math.exp(s)) for s in others)
                count += 1 + len(others)
                hits += own > max(others)
        losses.append(loss)
        decisions.append(count)
        right.append(hits)
    return losses, decisions, right


@pytest.mark.parametrize("offset", [1, 3])
def test_value(offset):
    predictions, targets, negatives = example()
    found = step_binary_cross_entropy(predictions, targets, negatives, LENGTHS, offset=offset)
    losses, decisions, right = oracle(predictions, targets, negatives, offset)
    torch.testing.assert_close(found.loss, torch.tensor(losses, dtype=torch.float64), rtol=0, atol=1e-8)
    assert found.decisions.tolist() == decisions
    assert found.right.tolist() == right
    assert (found.predictions * 6).tolist() == decisions


def test_gradient():
    predictions, targets, negatives = example()
    weights = torch.tensor([1.0, 2.0, -1.0])
    check_gradient(
        lambda p, z: (
            step_binary_cross_entropy(p, z, negatives[:, :5] % 5, LENGTHS.clamp(max=5), offset=2).loss * weights
        ).sum(),
        predictions[:, :5],
        targets[:, :5],
    )


def test_half_precision():
    predictions, targets, negatives = example()
    check_half_precision(
        lambda p, z: step_binary_cross_entropy(p, z, negatives, LENGTHS).loss.sum(), predictions, targets
    )


def test_padding_is_never_looked_at():
    predictions, targets, negatives = example()
    loss = step_binary_cross_entropy(predictions, targets, negatives, LENGTHS).loss
    for b, length in enumerate(LENGTHS.tolist()):
        predictions[b, length:], targets[b, length:], negatives[b, length:] = 1e3, -1e3, 0
    assert torch.equal(step_binary_cross_entropy(predictions, targets, negatives, LENGTHS).loss, loss)


def test_the_present_is_no_prediction():
    with pytest.raises(ValueError, match="offset: 0"):
        step_binary_cross_entropy(*example(), LENGTHS, offset=0)
