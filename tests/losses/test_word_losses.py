"""Losses of word embeddings against loops over pairs in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.losses.adaptive_relevance_margin import adaptive_relevance_margin
from audiossl.losses.bimodal_contrastive import bimodal_contrastive
from audiossl.losses.self_labelling import self_labelling


def case(seed=0, utterances=7, words=4, dim=5):
    rng = np.random.default_rng(seed)
    own = np.array([0, 1, 1, 2, -1, 3, 0])[:utterances]
    return rng.normal(size=(utterances, dim)), rng.normal(size=(words, dim)), own


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_hand(acoustic, phonetic, own, margin, hardest, within):
    sound, script, own = unit(acoustic[own >= 0]), unit(phonetic), own[own >= 0]

    def mined(pairs_of_rows):
        means = []
        for pairs in pairs_of_rows:
            if pairs:
                worst = sorted((max(0.0, margin - np.linalg.norm(a - b)) ** 2 for a, b in pairs), reverse=True)
                means.append(np.mean(worst[: hardest or None]))
        return np.mean(means) if means else 0.0

    pull = np.mean([np.linalg.norm(sound[i] - script[own[i]]) ** 2 for i in range(len(sound))])
    by_sound = [[(sound[i], script[j]) for j in range(len(script)) if j != own[i]] for i in range(len(sound))]
    by_word = [[(sound[i], script[j]) for i in range(len(sound)) if own[i] != j] for j in range(len(script))]
    loss = pull + 0.5 * mined(by_sound) + 0.5 * mined(by_word)
    if within:
        twins = [(i, k) for i in range(len(sound)) for k in range(len(sound)) if i != k and own[i] == own[k]]
        pull = np.mean([np.linalg.norm(sound[i] - sound[k]) ** 2 for i, k in twins]) if twins else 0.0
        others = [[(sound[i], sound[k]) for k in range(len(sound)) if own[i] != own[k]] for i in range(len(sound))]
        loss += within * (pull + mined(others))
    return loss


@pytest.mark.parametrize("hardest", [0, 1, 2, 50])
@pytest.mark.parametrize(("margin", "within"), [(0.5, 0.0), (1.4, 0.0), (1.4, 0.7)])
def test_bimodal_contrastive(margin, hardest, within):
    acoustic, phonetic, own = case()
    found = bimodal_contrastive(
        torch.from_numpy(acoustic), torch.from_numpy(phonetic), torch.from_numpy(own), margin=margin, hardest=hardest, within=within
    )  # fmt: skip
    assert found.item() == pytest.approx(by_hand(acoustic, phonetic, own, margin, hardest, within), rel=1e-9)


def test_hard_negatives_cost_more_than_all():
    acoustic, phonetic, own = map(torch.from_numpy, case())
    costs = [bimodal_contrastive(acoustic, phonetic, own, margin=1.4, hardest=k).item() for k in (1, 2, 0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[2] + 0.01


def test_a_perfect_space_costs_nothing():
    script = torch.eye(3)
    own = torch.tensor([0, 2, 1, 1])
    assert bimodal_contrastive(3 * script[own], script, own, margin=1.0, within=1.0).item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("loss", [bimodal_contrastive, adaptive_relevance_margin])
def test_gradients_are_finite_where_embeddings_meet_and_where_nothing_is_known(loss):
    for own in (torch.tensor([0, 0]), torch.tensor([-1, -1])):
        sound, script = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
        loss(sound, script, own).backward()
        assert sound.grad.isfinite().all()
        assert script.grad.isfinite().all()
    alone = torch.randn(1, 3, requires_grad=True)
    assert loss(alone, torch.ones(1, 3), torch.tensor([0])).isfinite()


def test_half_precision_is_made_wide():
    acoustic, phonetic, own = case()
    whole = bimodal_contrastive(
        torch.from_numpy(acoustic), torch.from_numpy(phonetic), torch.from_numpy(own), hardest=2
    )
    half = bimodal_contrastive(
        torch.from_numpy(acoustic).half(), torch.from_numpy(phonetic).half(), torch.from_numpy(own), hardest=2
    )
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=1e-2)


def test_margins_must_be_positive():
    with pytest.raises(ValueError, match="margin: 0 is not positive"):
        bimodal_contrastive(torch.ones(1, 2), torch.ones(2, 2), torch.tensor([0]), margin=0)


def test_adaptive_relevance_margin():
    acoustic, phonetic, own = case()
    sound, script = unit(acoustic), unit(phonetic)
    gaps = []
    for i, word in enumerate(own):
        for j in range(len(script)):
            if word >= 0 and j != word:
                target = script[word] @ script[j] / 2 + 1 / 2
                gaps.append((sound[i] @ script[word] - sound[i] @ script[j] - target) ** 2)
    given = [torch.from_numpy(array) for array in (acoustic, phonetic, own)]
    assert adaptive_relevance_margin(*given).item() == pytest.approx(np.mean(gaps), rel=1e-9)
    assert adaptive_relevance_margin(*given, detach=True).item() == pytest.approx(np.mean(gaps), rel=1e-9)


@pytest.mark.parametrize(("alike", "target"), [(0.9, 0.95), (0.0, 0.5), (-1.0, 0.0)])
def test_targets_of_the_margin(alike, target):
    """A query that fits the right document by 1 and the other one by nothing is off by 1 - target."""
    other = torch.tensor([alike, (1 - alike**2) ** 0.5, 0.0], dtype=torch.float64)
    query = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    query = query - alike * other if abs(alike) < 1 else query
    query = query / query.norm()
    documents = torch.stack([torch.tensor([1.0, 0, 0], dtype=torch.float64), other])
    margin = query @ documents[0] - query @ documents[1]
    found = adaptive_relevance_margin(query[None], documents, torch.tensor([0]))
    assert found.item() == pytest.approx((margin.item() - target) ** 2, abs=1e-9)


def test_detached_targets_pass_no_gradient():
    grads = []
    for detach in (False, True):
        acoustic, phonetic, own = (torch.from_numpy(array) for array in case())
        phonetic.requires_grad_()
        adaptive_relevance_margin(acoustic, phonetic, own, detach=detach).backward()
        grads.append(phonetic.grad)
    assert not torch.allclose(*grads)


def test_self_labelling():
    script = torch.eye(3)
    sound = torch.tensor([[5.0, 0.1, 0], [1.0, 1.0, 0], [0, 0.2, 1.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    near = self_labelling(sound, script, radius=0.5)
    assert near.tolist() == [0, -1, 2, -1]
    assert not near.requires_grad
    assert self_labelling(sound, script, radius=2.0).tolist()[0::2] == [0, 2]
    assert -1 not in self_labelling(sound, script, radius=2.0)
