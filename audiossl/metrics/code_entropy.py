"""Entropy of the use of a codebook."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._contingency import entropy


def code_entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits of how often each code is used; 2 to its power is the codebook's perplexity.

    counts: (code,), frames per code. 0 where one code takes all, log2(codes) where all are used alike.
    """
    usage = np.asarray(counts, dtype=np.float64)
    if usage.ndim != 1 or (usage < 0).any() or usage.sum() <= 0:
        raise ValueError(
            f"code counts of shape {usage.shape}, sum {usage.sum():g}: give the uses of each code, not all 0"
        )
    return entropy(usage) / float(np.log(2))
