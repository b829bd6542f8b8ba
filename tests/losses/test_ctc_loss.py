"""CTC against the sum over every path, written out."""

import itertools
import math

import pytest
import torch

from audiossl.losses.ctc import ctc, frames_needed


def collapse(path):
    return [token for token, _ in itertools.groupby(path) if token != 0]


def by_enumeration(logits, target):
    log_probs = logits.log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        if collapse(path) == list(target):
            total += math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


TARGETS = [[1, 2], [2, 2], [], [1, 2, 1]]
LENGTHS = [5, 4, 3, 5]


def batch():
    logits = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.full((4, 3), -1)
    for row, labels in zip(target, TARGETS, strict=True):
        row[: len(labels)] = torch.tensor(labels, dtype=torch.long)
    return logits, torch.tensor(LENGTHS), target, torch.tensor([len(labels) for labels in TARGETS])


def test_loss_is_the_sum_over_all_alignments():
    logits, lengths, target, target_lengths = batch()
    result = ctc(logits, lengths, target, target_lengths)
    oracle = [by_enumeration(logits[b, : LENGTHS[b]], TARGETS[b]) for b in range(4)]
    torch.testing.assert_close(result.loss, torch.tensor(oracle, dtype=torch.float64), rtol=1e-10, atol=0)
    assert result.possible.all()


def test_padding_is_not_read():
    logits, lengths, target, target_lengths = batch()
    before = ctc(logits, lengths, target, target_lengths).loss
    for b in range(4):
        logits[b, LENGTHS[b] :] = 50.0
        target[b, len(TARGETS[b]) :] = 2
    torch.testing.assert_close(ctc(logits, lengths, target, target_lengths).loss, before)


@pytest.mark.parametrize("frames", range(1, 6))
@pytest.mark.parametrize("labels", [[1], [1, 1], [1, 2, 1], [2, 2, 2], [1, 1, 2]])
def test_possible_says_whether_an_alignment_exists(frames, labels):
    logits = torch.zeros(1, 5, 3, requires_grad=True)
    result = ctc(logits, torch.tensor([frames]), torch.tensor([labels]), torch.tensor([len(labels)]))
    exists = by_enumeration(torch.zeros(frames, 3), labels) < math.inf
    assert bool(result.possible) is exists
    (gradient,) = torch.autograd.grad(result.loss.sum(), [logits])
    assert gradient.isfinite().all()
    assert bool(gradient.any()) is exists
    if not exists:
        assert result.loss.item() == 0


def test_frames_needed_counts_equal_neighbours_inside_the_target_only():
    target = torch.tensor([[3, 3, 3, 3], [1, 2, 2, 1], [5, -1, -1, -1]])
    assert frames_needed(target, torch.tensor([2, 4, 1])).tolist() == [3, 5, 1]


def test_bf16_under_autocast_is_computed_in_float32():
    logits, *rest = batch()
    rounded = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ctc(rounded, *rest).loss
    torch.testing.assert_close(loss, ctc(rounded.float(), *rest).loss)
    assert loss.dtype == torch.float32
