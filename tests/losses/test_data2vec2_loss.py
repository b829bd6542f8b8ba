import math

import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows

from audiossl.losses.data2vec2 import data2vec2


def test_against_the_sum_over_dimensions():
    predictions, targets = rows(6, 5), rows(6, 5, seed=1)
    found = data2vec2(predictions, targets)
    for frame in range(6):
        total = sum((float(predictions[frame, d]) - float(targets[frame, d])) ** 2 for d in range(5))
        assert found[frame].item() == pytest.approx(total / math.sqrt(5), abs=1e-8)


def test_gradient():
    predictions, targets = rows(4, 3).requires_grad_(), rows(4, 3, seed=1)
    check_gradient(data2vec2, predictions.detach(), targets)
    (gradient,) = torch.autograd.grad(data2vec2(predictions, targets).sum(), [predictions])
    torch.testing.assert_close(gradient, 2 * (predictions - targets).detach() / math.sqrt(3), atol=1e-8, rtol=0)


def test_half_precision():
    check_half_precision(data2vec2, rows(4, 3), rows(4, 3, seed=1))


def test_no_frames_give_no_loss():
    assert data2vec2(rows(0, 3), rows(0, 3)).sum() == 0
