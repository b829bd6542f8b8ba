"""Bhattacharyya distance between Gaussians."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._gaussians import log_determinants


def gaussian_bhattacharyya(means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Distance of every pair of Gaussians (Bhattacharyya, 1943; Fukunaga, 1990, eq. 3.152): (Gaussian, Gaussian) float64, 0 on the diagonal.

    1/8 (m_i - m_j)' S^-1 (m_i - m_j) + 1/2 ln(det S / sqrt(det S_i det S_j)) with S = (S_i + S_j) / 2. means: (Gaussian, dim); covariances:
    (Gaussian, dim, dim). ValueError for a covariance that is not positive definite.
    """
    means, covariances = np.asarray(means, np.float64), np.asarray(covariances, np.float64)
    logs = log_determinants(means, covariances)
    found = np.empty((len(means), len(means)))
    for row, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        both = (covariances + covariance) / 2
        gaps = means - mean
        distances = np.einsum("ja,ja->j", gaps, np.linalg.solve(both, gaps[:, :, None])[:, :, 0])
        found[row] = distances / 8 + (np.linalg.slogdet(both)[1] - (logs + logs[row]) / 2) / 2
    return found
