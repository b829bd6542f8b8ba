"""Cluster purity of discovered units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._contingency import checked_counts

if TYPE_CHECKING:
    import numpy as np


def cluster_purity(counts: np.ndarray) -> float:
    """Accuracy with which each phone's most frequent unit names its frames (Hsu et al., 2021, section IV-E).

    counts: (phone, unit), frames. Returns sum_phone max_unit p(phone, unit), in (0, 1]. The counterpart of phone
    purity: it falls when a phone is split over many units.
    """
    table = checked_counts(counts)
    return float(table.max(axis=1).sum() / table.sum())
