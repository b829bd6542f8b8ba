"""Principal components against the eigenvectors of the covariance, one at a time."""

from __future__ import annotations

import numpy as np

from audiossl.diagnostics.pca import principal_components


def test_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5)) + 7
    projected, shares = principal_components(points, 3)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    for number in range(3):
        direction = vectors[:, -1 - number]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(projected[:, number], (points - points.mean(0)) @ direction, atol=1e-9)
        np.testing.assert_allclose(shares[number], values[-1 - number] / values.sum(), atol=1e-12)


def test_collapsed_points_and_more_components_than_there_are():
    projected, shares = principal_components(np.ones((4, 3)), 50)
    assert projected.shape == (4, 3)
    assert not projected.any()
    assert not shares.any()
