"""Kullback-Leibler divergence between Gaussians."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._gaussians import log_determinants


def gaussian_kullback_leibler(means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """KL(i || j) of every pair of Gaussians, in nats (Kullback, 1959): (Gaussian, Gaussian) float64, 0 on the diagonal.

    1/2 (tr(S_j^-1 S_i) + (m_j - m_i)' S_j^-1 (m_j - m_i) - dim + ln det S_j / det S_i). means: (Gaussian, dim); covariances: (Gaussian, dim, dim).
    ValueError for a covariance that is not positive definite.
    """
    means, covariances = np.asarray(means, np.float64), np.asarray(covariances, np.float64)
    logs = log_determinants(means, covariances)
    inverses = np.linalg.inv(covariances)
    traces = np.einsum("jab,iba->ij", inverses, covariances)
    gaps = means[None] - means[:, None]  # (i, j, dim)
    distances = np.einsum("ija,jab,ijb->ij", gaps, inverses, gaps, optimize=True)
    divergences: np.ndarray = 0.5 * (traces + distances - means.shape[1] + logs[None] - logs[:, None])
    return divergences
