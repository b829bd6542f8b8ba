"""Margin softmax against a loop over classes, and the gate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, nats, rows

from audiossl.losses.margin_softmax import margin_softmax
from audiossl.margins.additive import Additive
from audiossl.margins.additive_angular import AdditiveAngular

TARGET = [0, 2, 2, 1, 3]


def by_loops(x, classes, shift):
    losses = []
    for row, target in zip(x, TARGET, strict=True):
        cosines = [cosine(row, c) for c in classes]
        losses.append(nats(shift(cosines[target]), cosines[:target] + cosines[target + 1 :], 30))
    return losses


def example():
    return rows(5, 6), rows(4, 6, seed=1), torch.tensor(TARGET)


SIZE = float(np.float32(0.2))  # as a margin holds it
MARGINS = [
    (None, lambda p: p),
    (Additive(Additive.Config(margin=0.2)), lambda p: p - SIZE),
    (AdditiveAngular(AdditiveAngular.Config(margin=0.2)), lambda p: math.cos(math.acos(p) + SIZE)),
]


@pytest.mark.parametrize(("margin", "shift"), MARGINS, ids=["plain", "AM", "AAM"])
def test_loss_equals_a_loop(margin, shift):
    x, classes, target = example()
    result = margin_softmax(x, classes, target, margin=margin)
    np.testing.assert_allclose(result.loss, by_loops(x.numpy(), classes.numpy(), shift), rtol=1e-6, atol=0)
    assert result.kept.all()
    nearest = [max(range(4), key=lambda c, row=row: cosine(row, classes[c])) for row in x]
    assert result.prediction.tolist() == nearest


def test_gate_drops_what_costs_more():
    x, classes, target = example()
    x.requires_grad_()
    full = margin_softmax(x, classes, target).loss
    gate = full.median().item()
    result = margin_softmax(x, classes, target, gate=gate)
    assert result.kept.tolist() == [loss <= gate for loss in full.tolist()]
    assert result.kept.sum() == 3
    torch.testing.assert_close(result.loss, full * result.kept)
    gradient = torch.autograd.grad(result.loss.sum(), x)[0]
    assert (gradient.abs().sum(dim=1) > 0).tolist() == result.kept.tolist()


def test_gradients_and_precision():
    x, classes, target = example()
    aam = AdditiveAngular(AdditiveAngular.Config(margin=0.2))
    check_gradient(lambda a, b: margin_softmax(a, b, target, scale=5, margin=aam).loss, x, classes)
    check_half_precision(lambda a, b: margin_softmax(a, b, target, margin=aam).loss, x, classes)


def test_scale_that_is_not_positive():
    with pytest.raises(ValueError, match="scale 0 is not positive"):
        margin_softmax(*example(), scale=0)
