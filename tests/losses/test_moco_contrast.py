"""MoCo's loss against a loop over queries and queue entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, nats, rows

from audiossl.losses.moco_contrast import moco_contrast
from audiossl.margins.additive import Additive
from audiossl.margins.magface import MagFace


def by_loops(query, key, queue, margin=0.0, excluded=None):
    losses = []
    for i, q in enumerate(query):
        negatives = [cosine(q, k) for j, k in enumerate(queue) if excluded is None or not excluded[i, j]]
        losses.append(nats(cosine(q, key[i]) - margin, negatives, 1 / 0.1))
    return np.mean(losses)


def example():
    return rows(4, 5), rows(4, 5, seed=1), rows(11, 5, seed=2)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_loss_equals_a_loop(margin):
    data = example()
    loss = moco_contrast(*data, temperature=0.1, margin=Additive(Additive.Config(margin=margin)))
    assert loss.item() == pytest.approx(by_loops(*data, margin), abs=1e-6)


def test_excluded_entries_leave_the_denominator():
    data = example()
    excluded = torch.rand(4, 11, generator=torch.Generator().manual_seed(3)) < 0.4
    assert excluded.any()
    loss = moco_contrast(*data, temperature=0.1, excluded=excluded)
    assert loss.item() == pytest.approx(by_loops(*data, excluded=excluded), abs=1e-12)
    assert moco_contrast(*data, excluded=torch.ones(4, 11, dtype=torch.bool)).item() == 0


def test_gradient_goes_into_the_query_only():
    query, key, queue = (x.requires_grad_() for x in example())
    moco_contrast(query, key, queue).backward()
    assert query.grad.any()
    assert key.grad is None
    assert queue.grad is None


def test_a_margin_that_reads_lengths_gets_those_before_normalisation():
    query, key, queue = example()
    margin = MagFace(MagFace.Config(lower_margin=0.1, margin=0.5))
    short, long = (moco_contrast(query * factor, key, queue, margin=margin) for factor in (1, 1000))
    assert long - short > 1
    other = moco_contrast(query, key * 1000, queue * 1000, margin=margin)
    torch.testing.assert_close(other, short)


def test_gradients_and_precision():
    query, key, queue = example()
    check_gradient(lambda q: moco_contrast(q, key, queue, temperature=0.1), query)
    check_half_precision(moco_contrast, query, key, queue)
