"""Gradients of the masked family's smaller losses against loops over frames and pairs in float64, to 1e-8."""

from __future__ import annotations

import math

import pytest
import torch

from audiossl.losses.clamped_contrastive import clamped_contrastive
from audiossl.losses.codebook_diversity import codebook_diversity
from audiossl.losses.sdsc import sdsc
from audiossl.losses.step_binary_cross_entropy import step_binary_cross_entropy
from audiossl.losses.utterance_contrastive import utterance_contrastive

FRAMES, DIM, TAU = 6, 4, 0.1
UTTERANCE = (0, 0, 0, 1, 1, 2)
OTHERS = torch.tensor([[1, 3], [0, 5], [4, 4], [0, 1], [3, 2], [2, 0]])
LENGTHS = (7, 5)
DRAWN = torch.tensor(
    [[[3, 6], [0, 2], [5, 1], [4, 4], [2, 0], [1, 3], [0, 5]], [[4, 2], [0, 3], [1, 4], [2, 1], [3, 0], [0, 0], [0, 0]]]
)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logistic(x):
    """-log of the logistic function."""
    return torch.log(1 + torch.exp(-x))


def naive_utterance(anchors, targets):
    losses = []
    for i in range(FRAMES):
        nats = []
        for j in [i, *OTHERS[i].tolist()]:
            logit = (anchors[i] @ targets[j]) / anchors[i].norm() / targets[j].norm() / TAU
            nats.append(logistic(logit if UTTERANCE[i] == UTTERANCE[j] else -logit))
        losses.append(sum(nats) / len(nats))
    return torch.stack(losses)


def naive_clamped(context, targets):
    losses = []
    for i in range(FRAMES):
        scores = [20 * torch.tanh(context[i] @ targets[j] / math.sqrt(DIM) / 20) for j in [i, *OTHERS[i].tolist()]]
        losses.append(torch.log(sum(score.exp() for score in scores)) - scores[0])
    return torch.stack(losses)


def naive_diversity(probabilities):
    frames, groups, entries = probabilities.shape
    used = 0.0
    for g in range(groups):
        mean = sum(probabilities[t, g] for t in range(frames)) / frames
        used = used + torch.exp(-sum(p * torch.log(p) for p in mean))
    return (groups * entries - used) / (groups * entries)


def naive_sdsc(estimate, reference):
    losses = []
    for e, r in zip(estimate, reference, strict=True):
        size = sum(abs(a) + abs(b) for a, b in zip(e, r, strict=True))
        common = sum(min(abs(a), abs(b)) / (1 + torch.exp(-10 * a * b)) for a, b in zip(e, r, strict=True))
        losses.append(1 - 2 * common / size)
    return torch.stack(losses)


def naive_steps(predictions, targets):
    losses = []
    for u, frames in enumerate(LENGTHS):
        nats = 0.0
        for t in range(frames):
            for k in range(predictions.shape[2]):
                i = t + 2 + k
                if i < frames:
                    nats = nats + logistic(predictions[u, t, k] @ targets[u, i])
                    nats = nats + sum(logistic(-predictions[u, t, k] @ targets[u, n]) for n in DRAWN[u, i])
        losses.append(nats)
    return torch.stack(losses)


def ours_steps(predictions, targets):
    return step_binary_cross_entropy(predictions, targets, DRAWN, torch.tensor(LENGTHS), offset=2).loss


PAIR = (noise(FRAMES, DIM), noise(FRAMES, DIM, seed=1))
CASES = {
    "utterance_contrastive": (
        naive_utterance,
        lambda s, t: utterance_contrastive(s, t, torch.tensor(UTTERANCE), OTHERS, temperature=TAU).loss,
        PAIR,
    ),
    "clamped_contrastive": (
        naive_clamped,
        lambda c, y: clamped_contrastive(c, y, OTHERS[None], torch.arange(FRAMES)).loss,
        PAIR,
    ),
    "codebook_diversity": (naive_diversity, codebook_diversity, (noise(5, 2, 4).softmax(2),)),
    "sdsc": (naive_sdsc, sdsc, PAIR),
    "step_binary_cross_entropy": (naive_steps, ours_steps, (noise(2, 7, 3, DIM), noise(2, 7, DIM, seed=1))),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_the_naive_ones(name):
    naive, ours, inputs = CASES[name]
    found = []
    for form in (naive, ours):
        leaves = [values.clone().requires_grad_() for values in inputs]
        loss = form(*leaves)
        weights = torch.arange(1, loss.numel() + 1).view(loss.shape)
        found.append((loss.detach(), *torch.autograd.grad((loss * weights).sum(), leaves)))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
        assert mine.abs().max() > 1e-3
