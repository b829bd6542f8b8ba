"""Divergences between Gaussians: against integrals over their densities, by hand, and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from audiossl.metrics.gaussian_bhattacharyya import gaussian_bhattacharyya
from audiossl.metrics.gaussian_kullback_leibler import gaussian_kullback_leibler


def gaussians(seed=0, count=4, dim=2):
    rng = np.random.default_rng(seed)
    roots = 0.3 * rng.standard_normal((count, dim, dim)) + np.eye(dim)
    return rng.standard_normal((count, dim)), roots @ roots.transpose(0, 2, 1)


def density(mean, covariance, points):
    gaps = points - mean
    exponent = -0.5 * (gaps * np.linalg.solve(covariance, gaps.T).T).sum(axis=1)
    return np.exp(exponent) / math.sqrt((2 * math.pi) ** len(mean) * np.linalg.det(covariance))


def test_equal_the_integrals():
    means, covariances = gaussians()
    width = 0.05
    axis = np.arange(-12, 12, width)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    densities = [density(mean, covariance, points) for mean, covariance in zip(means, covariances, strict=True)]
    divergence, distance = gaussian_kullback_leibler(means, covariances), gaussian_bhattacharyya(means, covariances)
    for i, p in enumerate(densities):
        for j, q in enumerate(densities):
            some = (p > 1e-200) & (q > 1e-200)
            kl = (p[some] * np.log(p[some] / q[some])).sum() * width**2
            assert divergence[i, j] == pytest.approx(kl, abs=1e-6)
            assert distance[i, j] == pytest.approx(-math.log(np.sqrt(p * q).sum() * width**2), abs=1e-6)


def test_by_hand():
    means, covariances = np.array([[0.0], [3.0]]), np.array([[[1.0]], [[4.0]]])
    divergence = gaussian_kullback_leibler(means, covariances)
    np.testing.assert_allclose(
        divergence, [[0, (1 / 4 + 9 / 4 - 1 + math.log(4)) / 2], [(4 + 9 - 1 - math.log(4)) / 2, 0]]
    )
    wanted = 9 / 2.5 / 8 + math.log(2.5 / 2) / 2
    np.testing.assert_allclose(gaussian_bhattacharyya(means, covariances), [[0, wanted], [wanted, 0]], atol=1e-15)


def test_neither_depends_on_the_axes():
    means, covariances = gaussians(dim=5)
    turn = np.random.default_rng(1).standard_normal((5, 5))
    for function in (gaussian_kullback_leibler, gaussian_bhattacharyya):
        found = function(means @ turn.T + 3.0, turn @ covariances @ turn.T)
        np.testing.assert_allclose(found, function(means, covariances), rtol=1e-6, atol=1e-9)
        assert np.all(found[~np.eye(4, dtype=bool)] > 0)
    assert not np.allclose(
        gaussian_kullback_leibler(means, covariances), gaussian_kullback_leibler(means, covariances).T
    )


@pytest.mark.parametrize("function", [gaussian_kullback_leibler, gaussian_bhattacharyya])
def test_what_is_no_gaussian(function):
    means, covariances = gaussians()
    covariances[2] = np.ones((2, 2))
    with pytest.raises(ValueError, match="is not positive definite"):
        function(means, covariances)
    with pytest.raises(ValueError, match=r"give \(Gaussian, dim\) and"):
        function(means, np.ones(4))
