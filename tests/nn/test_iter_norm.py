"""Iterative normalisation against the published algorithm in NumPy, group by group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.nn.iter_norm import IterNorm


def rows(seed=0):
    """Six correlated dimensions of very different size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=generator) * torch.tensor([0.1, 1, 3, 1, 1, 0.5])
    return torch.randn(20, 6, dtype=torch.float64, generator=generator) @ mixing + 2


def whitening(group, iterations, eps=1e-5):
    """Algorithm 1: (dim, dim) for the rows of one group."""
    centred = group - group.mean(axis=0)
    covariance = sum(np.outer(row, row) for row in centred) / len(group) + eps * np.eye(group.shape[1])
    p = np.eye(group.shape[1])
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * np.linalg.matrix_power(p, 3) @ (covariance / np.trace(covariance))
    return p / np.sqrt(np.trace(covariance))


def by_numpy(x, groups, iterations):
    parts = []
    for group in np.split(x, groups, axis=1):
        matrix = whitening(group, iterations)
        parts.append(np.stack([matrix @ row for row in group - group.mean(axis=0)]))
    return np.concatenate(parts, axis=1)


def made(groups=2, **options):
    module = IterNorm(6, groups=groups, **options).double()
    with torch.no_grad():
        module.scale.copy_(torch.linspace(0.5, 2, 6))
    return module


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_value(groups):
    x = rows()
    expected = by_numpy(x.numpy(), groups, 5) * np.linspace(0.5, 2, 6)
    np.testing.assert_allclose(made(groups)(x).detach().numpy(), expected, atol=1e-10)


def test_gradients():
    torch.autograd.gradcheck(made(), rows()[:5].requires_grad_(), atol=1e-8)


def test_enough_iterations_whiten():
    rough = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    x = made(1, iterations=15, eps=1e-9)(rough) / torch.linspace(0.5, 2, 6, dtype=torch.float64)
    np.testing.assert_allclose(np.cov(x.detach().numpy().T, ddof=0), np.eye(6), atol=1e-6)
    assert x.mean(dim=0).abs().max() < 1e-12


def test_evaluation_uses_running_statistics():
    module, batches = made(), [rows(seed) for seed in range(3)]
    mean, matrix = np.zeros((2, 3)), np.stack([np.eye(3)] * 2)
    for batch in batches:
        module(batch)
        for k, group in enumerate(np.split(batch.numpy(), 2, axis=1)):
            mean[k] = 0.9 * mean[k] + 0.1 * group.mean(axis=0)
            matrix[k] = 0.9 * matrix[k] + 0.1 * whitening(group, 5)
    x = rows(7)
    groups = np.split(x.numpy(), 2, axis=1)
    expected = np.concatenate([(g - mean[k]) @ matrix[k].T for k, g in enumerate(groups)], axis=1)
    module.eval()
    np.testing.assert_allclose(module(x).detach().numpy(), expected * np.linspace(0.5, 2, 6), atol=1e-6)
    torch.testing.assert_close(module(x[:1]), module(x)[:1])


def test_half_precision_does_not_reach_the_iterations():
    module, x = IterNorm(6, groups=2), rows().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(x.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, module(x.bfloat16().float()))


def test_uneven_groups_are_refused():
    with pytest.raises(ValueError, match="groups 4: 6 dimensions do not make so many groups"):
        IterNorm(6, groups=4)
