"""wav2vec 2.0's and ccc-wav2vec 2.0's losses against loops over frames and negatives in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, cosine, nats, rows

from audiossl.losses.cluster_contrastive import cluster_contrastive
from audiossl.losses.wav2vec2_contrastive import wav2vec2_contrastive

TAU = 0.2
COUNTS = (5, 3, 1)  # masked frames of each utterance; the last has no other to be compared with
FRAMES = sum(COUNTS)
FIRST = (0, 5, 8)  # of each utterance among all masked frames


def example(negatives=4, seed=0):
    """Context, targets, negatives, slots, and codes by which targets 0 and 2, and 5 and 6, are the same."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((3, 5, negatives), dtype=np.int64)
    for u, count in enumerate(COUNTS):
        for s in range(count):
            others = [k for k in range(count) if k != s] or [s]
            drawn[u, s] = rng.choice(others, negatives)
    slots = torch.tensor([5 * u + s for u, count in enumerate(COUNTS) for s in range(count)])
    codes = torch.tensor([7, 1, 7, 2, 3, 4, 4, 5, 6])
    targets = rows(FRAMES, 6, seed=1)[codes]
    return rows(FRAMES, 6), targets, torch.from_numpy(drawn), slots, codes


def frame_of(u, slot):
    return FIRST[u] + int(slot)


def by_loops(context, targets, negatives, change=lambda logit, frame, other: logit):
    """Loss and live negatives of each frame; a negative equal to the target, value by value, is left out."""
    losses, lives = [], []
    for u, count in enumerate(COUNTS):
        for s in range(count):
            t = frame_of(u, s)
            others = [frame_of(u, k) for k in negatives[u, s]]
            alive = [k for k in others if k != t and not np.array_equal(targets[k], targets[t])]
            logits = [change(cosine(context[t], targets[k]) / TAU, t, k) for k in alive]
            losses.append(nats(cosine(context[t], targets[t]) / TAU, logits))
            lives.append(len(alive))
    return losses, lives


def test_loss_equals_a_loop():
    context, targets, negatives, slots, codes = example()
    result = wav2vec2_contrastive(context, targets, negatives, slots, identity=codes, temperature=TAU)
    losses, lives = by_loops(context.numpy(), targets.numpy(), negatives.numpy())
    np.testing.assert_allclose(result.loss.numpy(), losses, rtol=0, atol=1e-12)
    assert result.live.tolist() == lives
    assert min(lives) == 0 < max(lives)
    assert result.loss[-1] == 0


def test_gradient_equals_that_of_the_published_form():
    """Published: the positive in front of copies of all negatives, identical ones at minus infinity, and cross-entropy with class 0."""
    context, targets, negatives, slots, codes = example()
    chosen = torch.tensor([[frame_of(s // 5, k) for k in negatives.flatten(0, 1)[s]] for s in slots.tolist()])

    def published(x, y):
        candidates = torch.cat([y.unsqueeze(1), y[chosen]], dim=1)
        logits = torch.cosine_similarity(x.unsqueeze(1), candidates, dim=-1) / TAU
        dead = (codes[chosen] == codes.unsqueeze(1)) | (chosen == torch.arange(FRAMES).unsqueeze(1))
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(dead, -math.inf)], dim=1)
        return torch.nn.functional.cross_entropy(logits, torch.zeros(FRAMES, dtype=torch.long), reduction="none")

    def ours(x, y):
        return wav2vec2_contrastive(x, y, negatives, slots, identity=codes, temperature=TAU).loss

    gradients = []
    for form in (published, ours):
        inputs = [context.clone().requires_grad_(), targets.clone().requires_grad_()]
        gradients.append(torch.autograd.grad((form(*inputs) * torch.arange(1, FRAMES + 1)).sum(), inputs))
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
    check_gradient(ours, context, targets)


def test_without_codes_only_the_frame_itself_is_no_negative():
    context, targets, negatives, slots, _ = example()
    live = wav2vec2_contrastive(context, targets, negatives, slots, temperature=TAU).live
    assert live.tolist() == [4] * 8 + [0]


def test_a_collapsed_codebook_shows_in_live_negatives_and_accuracy():
    context, targets, negatives, slots, codes = example()
    same = targets[:1].expand_as(targets)
    result = wav2vec2_contrastive(context, same, negatives, slots, identity=torch.zeros_like(codes))
    assert not result.loss.any()
    assert not result.live.any()
    assert not result.right.any()


def test_right_frames_are_nearest_to_their_target():
    _, targets, negatives, slots, codes = example()
    result = wav2vec2_contrastive(targets, targets, negatives, slots, identity=codes)
    assert result.right.tolist() == [bool(live) for live in result.live]
    assert not wav2vec2_contrastive(-targets, targets, negatives, slots, identity=codes).right.all()


def test_half_precision_is_computed_in_float32():
    context, targets, negatives, slots, codes = example()
    check_half_precision(
        lambda x, y: wav2vec2_contrastive(x, y, negatives, slots, identity=codes).loss, context.float(), targets.float()
    )


def test_no_masked_frames_give_no_loss():
    context = torch.zeros(0, 6, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    result = wav2vec2_contrastive(context, context, torch.zeros(2, 0, 4, dtype=torch.int64), nothing, identity=nothing)
    result.loss.sum().backward()
    assert result.loss.shape == result.live.shape == (0,)


CLUSTERS = torch.tensor([0, 1, 1, 0, 0, 1, 1, 1, 0])
CHANGES = {
    "paper": lambda logit: 0.3 * logit,
    "positive_only": lambda logit: min(logit, 0.3 * logit) if logit > 0 else logit,
    "additive": lambda logit: logit + math.log(0.3),
}


@pytest.mark.parametrize("mode", CHANGES)
def test_clustered_loss_equals_a_loop(mode):
    context, targets, negatives, slots, codes = example(negatives=7)

    def change(logit, frame, other):
        return CHANGES[mode](logit) if CLUSTERS[frame] == CLUSTERS[other] else logit

    def ours(x, y):
        return cluster_contrastive(
            x, y, negatives, slots, clusters=CLUSTERS, scale=0.3, mode=mode, identity=codes, temperature=TAU
        ).loss

    losses, _ = by_loops(context.numpy(), targets.numpy(), negatives.numpy(), change)
    plain, _ = by_loops(context.numpy(), targets.numpy(), negatives.numpy())
    assert not np.allclose(losses, plain)
    np.testing.assert_allclose(ours(context, targets).numpy(), losses, rtol=0, atol=1e-12)
    check_gradient(ours, context, targets)


@pytest.mark.parametrize("mode", CHANGES)
def test_clustered_gradient_equals_that_of_a_loop(mode):
    context, targets, negatives, slots, codes = example(negatives=7)

    def by_pairs(x, y):
        losses = []
        for t in range(FRAMES):
            others = [frame_of(int(slots[t]) // 5, k) for k in negatives.flatten(0, 1)[slots[t]]]
            logits = [x[t] @ y[k] / x[t].norm() / y[k].norm() / TAU for k in [t, *others]]
            for place, k in enumerate(others, start=1):
                if CLUSTERS[k] == CLUSTERS[t]:
                    logits[place] = CHANGES[mode](logits[place])
            alive = [logits[0]] + [logit for logit, k in zip(logits[1:], others, strict=True) if codes[k] != codes[t]]
            losses.append(torch.log(sum(logit.exp() for logit in alive)) - alive[0])
        return torch.stack(losses)

    def ours(x, y):
        return cluster_contrastive(
            x, y, negatives, slots, clusters=CLUSTERS, scale=0.3, mode=mode, identity=codes, temperature=TAU
        ).loss

    gradients = []
    for form in (by_pairs, ours):
        inputs = [context.clone().requires_grad_(), targets.clone().requires_grad_()]
        gradients.append(torch.autograd.grad((form(*inputs) * torch.arange(1, FRAMES + 1)).sum(), inputs))
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
        assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("mode", CHANGES)
def test_scale_1_is_wav2vec2(mode):
    context, targets, negatives, slots, codes = example()
    plain = wav2vec2_contrastive(context, targets, negatives, slots, identity=codes)
    scaled = cluster_contrastive(
        context, targets, negatives, slots, clusters=CLUSTERS, scale=1, mode=mode, identity=codes
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


@pytest.mark.parametrize(("mode", "lower", "higher"), [("paper", 1, 1), ("positive_only", 1, 0), ("additive", 1, -1)])
def test_what_scaling_does_to_near_and_far_negatives_of_the_cluster(mode, lower, higher):
    """One negative at cosine 0.5 or -0.5: its share falls where the cosine is positive; only the paper's form raises the other."""
    context, negatives, slots = torch.eye(2, dtype=torch.float64), torch.tensor([[[1], [0]]]), torch.arange(2)
    signs = []
    for cosine_of_negative in (0.5, -0.5):
        y = torch.tensor([[1.0, 0.0], [cosine_of_negative, math.sqrt(0.75)]], dtype=torch.float64)
        plain = wav2vec2_contrastive(context, y, negatives, slots).loss[0]
        scaled = cluster_contrastive(
            context, y, negatives, slots, clusters=torch.zeros(2, dtype=torch.int64), mode=mode
        ).loss[0]
        signs.append(float(torch.sign(scaled - plain)))
    assert signs == [-lower, higher]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale: 0.0 is not above 0"),
        ({"mode": "x"}, "mode: 'x'"),
        ({"temperature": 0}, "temperature: 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    context, targets, negatives, slots, _ = example()
    with pytest.raises(ValueError, match=message):
        cluster_contrastive(context, targets, negatives, slots, clusters=CLUSTERS, **options)
