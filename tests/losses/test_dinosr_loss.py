import math

import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows, softmax

from audiossl.losses.dinosr import dinosr

CODES = torch.tensor([[0, 3, 1, 1], [2, 2, 0, 3], [1, 0, 3, 2]])


def test_against_the_softmax_written_out():
    logits = rows(3, 4, 5)
    found = dinosr(logits, CODES)
    for frame in range(4):
        nats = [-math.log(softmax(logits[book, frame])[CODES[book, frame]]) for book in range(3)]
        assert found[frame].item() == pytest.approx(sum(nats) / 3, abs=1e-8)


def test_gradient():
    logits = rows(3, 4, 5)
    check_gradient(lambda x: dinosr(x, CODES), logits)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dinosr(leaf, CODES).sum(), [leaf])
    for book in range(3):
        for frame in range(4):
            expected = torch.tensor(softmax(logits[book, frame]))
            expected[CODES[book, frame]] -= 1
            torch.testing.assert_close(gradient[book, frame], expected / 3, atol=1e-8, rtol=0)


def test_half_precision():
    check_half_precision(lambda x: dinosr(x, CODES), rows(3, 4, 5))


def test_no_frames_give_no_loss():
    assert dinosr(rows(3, 0, 5), CODES[:, :0]).sum() == 0
