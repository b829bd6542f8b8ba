"""Agreement of a clustering with classes over pairs of items, corrected for chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._contingency import checked_counts

if TYPE_CHECKING:
    from numpy import ndarray


def adjusted_rand_index(counts: ndarray) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985): 1 where clusters are classes, about 0 where they are random.

    counts: (class, cluster), items. 1 where both sides put all items together, or all apart.
    """
    table = checked_counts(counts)
    together, by_class, by_cluster = (
        _pairs(table).sum(),
        _pairs(table.sum(axis=1)).sum(),
        _pairs(table.sum(axis=0)).sum(),
    )
    total = _pairs(table.sum())
    expected = by_class * by_cluster / total if total else 0.0
    highest = (by_class + by_cluster) / 2
    return 1.0 if highest == expected else float((together - expected) / (highest - expected))


def _pairs(count: ndarray) -> ndarray:
    pairs: ndarray = count * (count - 1) / 2
    return pairs
