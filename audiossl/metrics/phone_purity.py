"""Phone purity of discovered units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._contingency import checked_counts

if TYPE_CHECKING:
    import numpy as np


def phone_purity(counts: np.ndarray) -> float:
    """Accuracy with which each unit's most frequent phone names its frames (Hsu et al., 2021, section IV-E).

    counts: (phone, unit), frames. Returns sum_unit max_phone p(phone, unit), in (0, 1]. Grows with the number of units,
    so compare codebooks of one size.
    """
    table = checked_counts(counts)
    return float(table.max(axis=0).sum() / table.sum())
