"""How many dimensions representations use: what the entropy of their singular values says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray


def effective_rank(singular_values: ndarray, *, epsilon: float = 0.0) -> float:
    """exp(-sum p log p) with p = singular value / their sum (Roy and Vetterli, 2007, definition 1).

    singular_values: (value,), not negative. From 1, where one direction holds everything, to their number; 0 where all are 0. epsilon:
    added to each p; RankMe (Garrido et al., 2023, equation 1) is this with 1e-7, on embeddings that were not centred.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"singular values of shape {values.shape}: give one or more, finite and not negative")
    if not values.any():
        return 0.0
    p = values / values.sum() + epsilon
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))
