"""Agreement of a clustering with classes as shared information, corrected for chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._contingency import checked_counts, entropy

if TYPE_CHECKING:
    from numpy import ndarray


def adjusted_mutual_information(counts: ndarray) -> float:
    """(I - E[I]) / (mean of both entropies - E[I]) (Vinh et al., 2010, equation 6 and the arithmetic mean).

    counts: (class, cluster), items. 1 where clusters are classes, about 0 where they are random, also below. E[I]: over all clusterings of
    the same sizes. 1 where both sides put all items together, or all apart.
    """
    table = checked_counts(counts)
    classes, clusters = (side[side > 0] for side in (table.sum(axis=1), table.sum(axis=0)))
    if len(classes) == len(clusters) and len(classes) in {1, int(table.sum())}:
        return 1.0
    mean = (entropy(classes) + entropy(clusters)) / 2
    information = entropy(classes) + entropy(clusters) - entropy(table)
    expected = _expected_information(classes, clusters)
    # Rounding must not turn the sign where chance alone explains everything.
    span = max(mean - expected, np.finfo(np.float64).eps)
    return float((information - expected) / span)


def _expected_information(classes: ndarray, clusters: ndarray) -> float:
    """E[I] in nats under the hypergeometric model: equation 24a of Vinh et al. (2010), once for each pair of sizes that occurs."""
    from scipy.special import gammaln  # type: ignore[import-untyped]

    total = classes.sum()
    sizes, repeats = np.unique(clusters, return_counts=True)  # (size,)
    b = sizes[:, None]
    log_factorial = gammaln(np.arange(total + 1) + 1)

    def factorial(number: ndarray) -> ndarray:
        found: ndarray = log_factorial[number.astype(np.int64)]
        return found

    expected = 0.0
    for a, count in zip(*np.unique(classes, return_counts=True), strict=True):
        n = np.arange(1, min(a, sizes.max()) + 1)[None]  # (1, shared items)
        possible = (n >= a + b - total) & (n <= b)
        m = np.where(possible, n, np.maximum(a + b - total, 0))  # a harmless number where n is not possible
        log_chance = (
            factorial(a) + factorial(b) + factorial(total - a) + factorial(total - b)
            - factorial(total) - factorial(m) - factorial(a - m) - factorial(b - m) - factorial(total - a - b + m)
        )  # fmt: skip
        terms = np.where(possible, n / total * np.log(total * n / (a * b)) * np.exp(log_chance), 0.0)
        expected += count * float((repeats * terms.sum(axis=1)).sum())
    return expected
