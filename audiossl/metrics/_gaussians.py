"""What divergences between Gaussians share."""

from __future__ import annotations

import numpy as np


def log_determinants(means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """(Gaussian,) of their covariances. means: (Gaussian, dim); covariances: (Gaussian, dim, dim). ValueError for one that is not positive definite."""
    if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]):
        raise ValueError(
            f"means {means.shape}, covariances {covariances.shape}; give (Gaussian, dim) and (Gaussian, dim, dim)"
        )
    try:
        roots = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError as error:
        raise ValueError("a covariance is not positive definite; give more points, or fewer dimensions") from error
    logs: np.ndarray = 2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    return logs
