"""What the tests of losses share: random embeddings, cosines and softmax written out in NumPy float64, and checks that all losses want."""

from __future__ import annotations

import math

import numpy as np
import torch


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a)) / math.sqrt(np.dot(b, b)))


def nats(positive, negatives, scale=1.0):
    """-log of the positive's share among itself and the negatives."""
    total = math.exp(scale * positive) + sum(math.exp(scale * n) for n in negatives)
    return -math.log(math.exp(scale * positive) / total)


def softmax(scores):
    exponentials = np.exp(np.asarray(scores, dtype=np.float64))
    return exponentials / exponentials.sum()


def check_gradient(function, *inputs):
    """Analytic gradients against finite differences, in float64."""
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs], atol=1e-6)


def check_half_precision(function, *inputs):
    """A loss of half-precision inputs under autocast is the float32 loss of the same rounded values."""
    half = [x.bfloat16() for x in inputs]
    exact = function(*[x.float() for x in half])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = function(*half)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, exact)
