"""SwAV's loss and Sinkhorn's codes against the iteration on plain probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows, softmax

from audiossl.losses._sinkhorn import sinkhorn
from audiossl.losses.swav import swav
from audiossl.nn.gather import layout_of


def codes(scores, iterations, epsilon=0.05):
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        for row in range(k):
            q[row] /= q[row].sum() * k
        for column in range(b):
            q[:, column] /= q[:, column].sum() * b
    return (q * b).T


def our_codes(scores, iterations):
    return sinkhorn(scores, layout_of(scores), epsilon=0.05, iterations=iterations)


def example(crops=4):
    return 0.1 * rows(crops, 6, 3)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_equal_the_published_iteration(iterations):
    scores = example()[0]
    np.testing.assert_allclose(our_codes(scores, iterations), codes(scores.numpy(), iterations), atol=1e-12)


def test_codes_become_balanced_and_do_not_overflow():
    scores = 0.2 * rows(64, 8)
    used = our_codes(scores, 100).sum(dim=0)
    torch.testing.assert_close(used, torch.full((8,), 8.0, dtype=torch.float64), atol=1e-3, rtol=0)
    large = our_codes(1000 * scores.float(), 3)
    torch.testing.assert_close(large.sum(dim=1), torch.ones(64))


def by_loops(scores, queue=None):
    pairs = []
    for g in range(2):
        rows_of_crop = scores[g] if queue is None else np.concatenate([scores[g], queue[g]])
        q = codes(rows_of_crop, 3)[: scores.shape[1]]
        pairs += [
            np.mean([-q[n] @ np.log(softmax(scores[c, n] / 0.1)) for n in range(scores.shape[1])])
            for c in range(len(scores))
            if c != g
        ]
    return np.mean(pairs)


@pytest.mark.parametrize("crops", [2, 4])
def test_loss_equals_loops_over_pairs(crops):
    scores = example(crops)
    assert swav(scores).item() == pytest.approx(by_loops(scores.numpy()), abs=1e-10)


def test_queue_helps_to_balance_and_leaves():
    scores, queue = example(), 0.1 * rows(2, 9, 3, seed=1)
    assert swav(scores, queue).item() == pytest.approx(by_loops(scores.numpy(), queue.numpy()), abs=1e-10)
    assert swav(scores, queue) != swav(scores)


def test_gradients_and_precision():
    """Codes have no gradient: the loss is checked with codes held by a copy that does not move."""
    scores = example()
    loose = scores.clone().requires_grad_()
    swav(loose).backward()
    step = 1e-6
    direction = rows(*scores.shape, seed=3)
    q = [torch.as_tensor(codes(scores[g].numpy(), 3)) for g in range(2)]

    def with_codes(x):
        terms = [-(q[g] * (x[c] / 0.1).log_softmax(1)).sum(1).mean() for g in range(2) for c in range(4) if c != g]
        return sum(terms) / len(terms)

    slope = (with_codes(scores + step * direction) - with_codes(scores - step * direction)) / (2 * step)
    assert (loose.grad * direction).sum().item() == pytest.approx(slope.item(), abs=1e-7)
    check_gradient(with_codes, scores)
    check_half_precision(swav, scores)


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="num_global 3 does not fit 2 crops"):
        swav(example(2), num_global=3)
    with pytest.raises(ValueError, match="epsilon 0 must be positive"):
        swav(example(), epsilon=0)
