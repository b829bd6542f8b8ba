"""Pairs of frames one by one, with the logistic function written out."""

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, rows

from audiossl.losses.utterance_contrastive import utterance_contrastive

UTTERANCE = torch.tensor([0, 0, 1, 1, 1, 2, 0])
CANDIDATES = torch.tensor([[1, 4, 2], [0, 0, 3], [6, 5, 1], [2, 4, 4], [0, 2, 5], [3, 1, 0], [5, 0, 2]])


def oracle(anchors, targets, temperature):
    losses = []
    for i, anchor in enumerate(anchors):
        total = 0.0
        for j in [i, *CANDIDATES[i].tolist()]:
            p = 1 / (1 + math.exp(-cosine(anchor, targets[j]) / temperature))
            total -= math.log(p if UTTERANCE[i] == UTTERANCE[j] else 1 - p)
        losses.append(total / (1 + CANDIDATES.shape[1]))
    return np.array(losses)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_against_the_oracle(temperature):
    anchors, targets = rows(7, 5), rows(7, 5, seed=1)
    found = utterance_contrastive(anchors, targets, UTTERANCE, CANDIDATES, temperature=temperature)
    np.testing.assert_allclose(found.loss, oracle(anchors, targets, temperature), rtol=0, atol=1e-8)


def test_gradients_of_anchors_and_targets():
    check_gradient(lambda a, t: utterance_contrastive(a, t, UTTERANCE, CANDIDATES).loss, rows(7, 5), rows(7, 5, seed=1))


def test_pairs_of_a_batch_made_by_hand():
    found = utterance_contrastive(rows(7, 5), rows(7, 5), UTTERANCE, CANDIDATES)
    assert found.same.int().tolist() == [
        [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0],
    ]  # fmt: skip
    torch.testing.assert_close(found.cosine[:, 0], torch.ones(7, dtype=torch.float64))


def test_frames_that_know_their_utterance_cost_little():
    speakers = torch.eye(3, dtype=torch.float64)
    apart = (
        2 * speakers[UTTERANCE] - speakers[(UTTERANCE + 1) % 3] - speakers[(UTTERANCE + 2) % 3]
    )  # cosines 1 and -1/2
    assert utterance_contrastive(apart, apart, UTTERANCE, CANDIDATES).loss.max() < 0.01
    alike = torch.ones(7, 3, dtype=torch.float64)
    assert utterance_contrastive(alike, alike, UTTERANCE, CANDIDATES).loss.mean() > 1


def test_half_precision():
    check_half_precision(
        lambda a, t: utterance_contrastive(a, t, UTTERANCE, CANDIDATES).loss.sum(),
        rows(7, 5).float(),
        rows(7, 5, seed=1).float(),
    )


def test_no_frames_and_no_candidates():
    anchors = rows(0, 5).requires_grad_()
    none = utterance_contrastive(anchors, anchors, UTTERANCE[:0], CANDIDATES[:0])
    assert none.loss.sum() == 0
    assert torch.autograd.grad(none.loss.sum(), anchors)[0].shape == (0, 5)
    single = utterance_contrastive(rows(1, 5), rows(1, 5), UTTERANCE[:1], CANDIDATES[:1, :0])
    assert single.loss.item() == pytest.approx(math.log(1 + math.exp(-10)))
