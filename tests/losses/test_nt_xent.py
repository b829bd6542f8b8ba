"""NT-Xent in all its forms against loops over anchors and candidates, and with margins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, nats, rows

from audiossl.losses.nt_xent import nt_xent, nt_xent_all_views, nt_xent_multi_view
from audiossl.margins.additive import Additive
from audiossl.margins.additive_angular import AdditiveAngular

TAU = 0.2


def by_loops(views, symmetric, margin=0.0):
    views = views.numpy()
    num, losses = views.shape[1], []
    for view in (0, 1) if symmetric else (0,):
        for i in range(num):
            anchor = views[view, i]
            negatives = [
                cosine(anchor, views[other, j])
                for j in range(num)
                if j != i
                for other in ((0, 1) if symmetric else (1,))
            ]
            losses.append(nats(cosine(anchor, views[1 - view, i]) - margin, negatives, 1 / TAU))
    return np.mean(losses)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_two_views_equal_a_loop_over_anchors(symmetric, margin):
    views = rows(2, 5, 4)
    am = Additive(Additive.Config(margin=margin))
    loss = nt_xent(*views, temperature=TAU, symmetric=symmetric, margin=am)
    assert loss.item() == pytest.approx(by_loops(views, symmetric, margin), abs=1e-6)  # the margin is a float32
    if margin == 0:
        plain = nt_xent(*views, temperature=TAU, symmetric=symmetric)
        assert plain.item() == pytest.approx(by_loops(views, symmetric), abs=1e-12)
        assert loss == plain


def by_positives(anchors, anchor_ids, candidates, candidate_ids, skip_self, reduce):
    """Each positive against all candidates, the other positives among them; then `reduce` over positives and mean over anchors."""
    losses = []
    for a, (anchor, name) in enumerate(zip(anchors, anchor_ids, strict=True)):
        allowed = [c for c in range(len(candidates)) if not (skip_self and c == a)]
        cosines = {c: cosine(anchor, candidates[c]) for c in allowed}
        own = [
            nats(cosines[p], [cosines[c] for c in allowed if c != p], 1 / TAU)
            for p in allowed
            if candidate_ids[p] == name
        ]
        losses.append(reduce(own))
    return np.mean(losses)


def test_all_views_average_over_positives():
    views = rows(3, 4, 5)
    flat, names = views.flatten(0, 1).numpy(), [0, 1, 2, 3] * 3
    loss = nt_xent_all_views(views, temperature=TAU)
    assert loss.item() == pytest.approx(by_positives(flat, names, flat, names, True, np.mean), abs=1e-12)
    assert nt_xent_all_views(views[:2], temperature=TAU) == nt_xent(*views[:2], temperature=TAU)


@pytest.mark.parametrize(("positives", "reduce"), [("mean", np.mean), ("sum", np.sum)])
def test_local_views_against_global_ones(positives, reduce):
    short, long = rows(4, 3, 5), rows(2, 3, 5, seed=1)
    loss = nt_xent_multi_view(short, long, temperature=TAU, positives=positives)
    oracle = by_positives(
        short.flatten(0, 1).numpy(), [0, 1, 2] * 4, long.flatten(0, 1).numpy(), [0, 1, 2] * 2, False, reduce
    )
    assert loss.item() == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("kind", [Additive, AdditiveAngular])
def test_margin_reaches_every_positive_and_no_negative(kind):
    """A margin in front of the loss equals the loss of cosines that were changed by hand."""
    short, long = rows(2, 3, 5), rows(2, 3, 5, seed=1)
    a, c = short.flatten(0, 1).numpy(), long.flatten(0, 1).numpy()
    total = 0.0
    for i in range(6):
        shifted = []
        for j in range(6):
            p = cosine(a[i], c[j])
            if i % 3 == j % 3:
                p = p - 0.25 if kind is Additive else math.cos(math.acos(p) + 0.25)
            shifted.append(p)
        total += np.mean(
            [nats(shifted[j], shifted[:j] + shifted[j + 1 :], 1 / TAU) for j in range(6) if i % 3 == j % 3]
        )
    assert max(cosine(a[i], c[j]) for i in range(6) for j in range(6)) < 0.95
    loss = nt_xent_multi_view(short, long, temperature=TAU, margin=kind(kind.Config(margin=0.25)))
    assert loss.item() == pytest.approx(total / 6, abs=1e-6)


def test_published_growth_with_the_margin():
    """One anchor, one negative, s = 33.3: the known losses at margins of 0, 0.1 and 0.2 follow from the first alone."""
    share = math.expm1(0.31922)  # e^{s (n - p)}
    p, n = 0.8, 0.8 + 0.03 * math.log(share)
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[p, math.sqrt(1 - p * p)], [n, math.sqrt(1 - n * n)]], dtype=torch.float64)
    losses = [_first_anchor(first, second, margin) for margin in (0.0, 0.1, 0.2)]
    assert losses == pytest.approx([0.319, 2.446, 5.692], abs=5e-4)


def _first_anchor(first, second, margin):
    """Loss of the first of two anchors: the other one has positive and negative swapped, so that the mean alone would hide it."""
    both = nt_xent(first, second, symmetric=False, margin=Additive(Additive.Config(margin=margin)))
    swapped = nats(cosine(first[1], second[1]) - margin, [cosine(first[1], second[0])], 1 / 0.03)
    return 2 * both.item() - swapped


def test_loss_grows_strictly_with_the_margin():
    views = rows(2, 8, 16)
    for kind in (Additive, AdditiveAngular):
        losses = [nt_xent(*views, margin=kind(kind.Config(margin=m))).item() for m in np.linspace(0, 0.5, 11)]
        assert (np.diff(losses) > 1e-3).all()


def test_no_negatives_no_loss():
    views = rows(2, 1, 4)
    assert nt_xent(*views).item() == 0
    assert nt_xent(*views, symmetric=False).item() == 0


def test_gradients():
    views = rows(2, 4, 3)
    aam = AdditiveAngular(AdditiveAngular.Config(margin=0.2)).double()
    check_gradient(lambda a, b: nt_xent(a, b, temperature=TAU), *views)
    check_gradient(lambda a, b: nt_xent(a, b, temperature=TAU, symmetric=False, margin=aam), *views)
    check_gradient(lambda x: nt_xent_multi_view(x, x[:2], temperature=TAU), rows(3, 3, 3))


def test_half_precision():
    check_half_precision(nt_xent, *rows(2, 6, 8))


def test_equal_views_have_finite_gradients_with_every_margin_size():
    views = rows(2, 4, 3).float()
    views[1] = views[0]
    views.requires_grad_()
    for margin in (0.0, 0.5):
        loss = nt_xent(*views, margin=AdditiveAngular(AdditiveAngular.Config(margin=margin)))
        assert torch.autograd.grad(loss, views)[0].isfinite().all()


def test_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="temperature: 0 is not positive"):
        nt_xent(*rows(2, 3, 4), temperature=0)
