"""The loss of continuous BERT against exponentials written out."""

from __future__ import annotations

import math

import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, nats, rows

from audiossl.losses.clamped_contrastive import clamped_contrastive

NEGATIVES = torch.tensor([[1, 2, 1], [0, 2, -1], [-1, -1, -1], [4, -1, -1], [3, 3, 3]])
# The same by utterance: three frames, and two whose third slot is padding. SLOTS: places of the frames.
BY_UTTERANCE = torch.tensor([NEGATIVES[:3].tolist(), [[1, -1, -1], [0, 0, 0], [-1, -1, -1]]])
SLOTS = torch.tensor([0, 1, 2, 3, 4])


def example():
    return 4 * rows(5, 6, seed=1), rows(5, 6, seed=2)


def test_value():
    context, targets = example()
    found = clamped_contrastive(context, targets, BY_UTTERANCE, SLOTS, clamp=2.0)

    def score(i, j):
        return 2.0 * math.tanh(float(context[i] @ targets[j]) / math.sqrt(6) / 2.0)

    for i, row in enumerate(NEGATIVES.tolist()):
        others = [score(i, j) for j in row if j >= 0]
        assert float(found.loss[i]) == pytest.approx(nats(score(i, i), others), abs=1e-8)
        assert bool(found.right[i]) == bool(others and score(i, i) > max(others))
        assert int(found.live[i]) == len(others)
    assert found.loss[2] == 0


def test_negatives_that_equal_the_target_are_not_live():
    """They keep their share of the loss, in which nothing else is left once all targets are one."""
    context, targets = example()
    targets[4] = targets[3]
    found = clamped_contrastive(context, targets, BY_UTTERANCE, SLOTS)
    assert found.live.tolist() == [3, 2, 0, 0, 0]
    assert found.loss[4] == pytest.approx(math.log(4))
    assert not found.right[2:].any()
    one = clamped_contrastive(context, torch.zeros_like(targets), BY_UTTERANCE[:, :, :2].clamp(min=0), SLOTS)
    assert not one.live.any()
    torch.testing.assert_close(one.loss, torch.full_like(one.loss, math.log(3)))


def test_gradient():
    check_gradient(
        lambda c, y: clamped_contrastive(c, y, BY_UTTERANCE, SLOTS, clamp=3.0).loss @ torch.arange(1.0, 6).double(),
        *example(),
    )


def test_half_precision():
    check_half_precision(lambda c, y: clamped_contrastive(c, y, BY_UTTERANCE, SLOTS).loss.sum(), *example())


def test_no_frames():
    context, targets = (x[:0].requires_grad_() for x in example())
    loss = clamped_contrastive(context, targets, BY_UTTERANCE[:, :0], SLOTS[:0]).loss.sum()
    loss.backward()
    assert loss == 0


def test_clamp_must_be_positive():
    with pytest.raises(ValueError, match="clamp: 0"):
        clamped_contrastive(*example(), BY_UTTERANCE, SLOTS, clamp=0)
