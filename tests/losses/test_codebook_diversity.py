"""The diversity loss against NumPy, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.codebook_diversity import codebook_diversity


def test_loss_is_the_share_of_entries_not_in_use():
    probs = rows(9, 2, 5).softmax(dim=-1)
    mean = probs.numpy().mean(axis=0)
    used = sum(np.exp(-sum(p * np.log(p) for p in group)) for group in mean)
    assert codebook_diversity(probs).item() == pytest.approx((10 - used) / 10, abs=1e-12)
    check_gradient(lambda logits: codebook_diversity(logits.softmax(dim=-1)), rows(9, 2, 5))


def test_limits():
    one = torch.zeros(6, 2, 320)
    one[:, :, 3] = 1
    assert codebook_diversity(one).item() == pytest.approx(1 - 2 / 640)  # the published signature of collapse, 0.997
    assert codebook_diversity(torch.full((6, 2, 320), 1 / 320)).item() == pytest.approx(0, abs=1e-6)


def test_gradient_is_finite_where_entries_are_never_used():
    logits = torch.tensor([[[200.0, 0.0, 0.0]]], requires_grad=True)
    probs = logits.softmax(dim=-1)
    assert (probs == 0).any()
    codebook_diversity(probs).backward()
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    check_half_precision(codebook_diversity, rows(9, 2, 5).softmax(dim=-1).float())


def test_no_frames_give_a_finite_loss():
    assert codebook_diversity(torch.zeros(0, 2, 5)).isfinite()
