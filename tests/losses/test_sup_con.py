"""SupCon against loops over anchors and positives, and its relation to NT-Xent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.nt_xent import nt_xent, nt_xent_all_views
from audiossl.losses.sup_con import sup_con

TAU = 0.3
LABELS = [0, 1, 0, 2, 1, 0, 3]  # 2 and 3 have no positives


def by_loops(x, labels, form):
    losses = []
    for i, anchor in enumerate(x):
        others = [j for j in range(len(x)) if j != i]
        total = sum(math.exp(cosine(anchor, x[j]) / TAU) for j in others)
        shares = [math.exp(cosine(anchor, x[p]) / TAU) / total for p in others if labels[p] == labels[i]]
        if shares:
            losses.append(-np.mean(np.log(shares)) if form == "out" else -math.log(np.mean(shares)))
    return np.mean(losses)


@pytest.mark.parametrize("form", ["out", "in"])
def test_loss_equals_a_loop(form):
    x, labels = rows(7, 4), torch.tensor(LABELS)
    loss = sup_con(x, labels, temperature=TAU, form=form)
    assert loss.item() == pytest.approx(by_loops(x.numpy(), LABELS, form), abs=1e-12)


def test_one_positive_is_nt_xent():
    views = rows(2, 5, 4)
    labels = torch.arange(5).repeat(2)
    for form in ("out", "in"):
        ours = sup_con(views.flatten(0, 1), labels, temperature=TAU, form=form)
        torch.testing.assert_close(ours, nt_xent(*views, temperature=TAU))


def test_utterance_as_label_is_nt_xent_over_all_views():
    views = rows(3, 5, 4)
    ours = sup_con(views.flatten(0, 1), torch.arange(5).repeat(3), temperature=TAU)
    torch.testing.assert_close(ours, nt_xent_all_views(views, temperature=TAU))


def test_logarithm_outside_is_never_less():
    for seed in range(20):
        x, labels = rows(9, 4, seed=seed), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
        assert sup_con(x, labels, form="out") > sup_con(x, labels, form="in")


@pytest.mark.parametrize("form", ["out", "in"])
def test_no_positives_no_loss_and_no_gradient(form):
    x = rows(4, 3).requires_grad_()
    loss = sup_con(x, torch.arange(4), form=form)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, x)[0].any()


@pytest.mark.parametrize("form", ["out", "in"])
def test_gradients_and_precision(form):
    labels = torch.tensor(LABELS)
    check_gradient(lambda x: sup_con(x, labels, temperature=TAU, form=form), rows(7, 3))
    check_half_precision(lambda x: sup_con(x, labels, form=form), rows(7, 8))
