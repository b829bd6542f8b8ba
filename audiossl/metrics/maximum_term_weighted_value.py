"""Maximum term-weighted value of a search for spoken queries."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._detection import checked_trials, default_cost


def maximum_term_weighted_value(
    scores: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    *,
    p_target: float = 0.0008,
    c_miss: float = 100.0,
    c_fa: float = 1.0,
) -> float:
    """Largest term-weighted value that one threshold for all queries gives (NIST 2006 spoken term detection evaluation plan).

    1 - mean over queries of (P_miss + beta P_fa), with beta = c_fa / c_miss (1 / p_target - 1), 12.49 by default as in QUESST. Trials
    of one score are accepted or rejected together; rejecting all gives 0, so it is never less, and 1 is perfect. Queries without a
    target trial are left out, as its scoring tool does. That tool takes all pairs of a query and a document of its list for trials:
    give those that were not searched a score below all others.

    scores: (trial,), higher where the query is in the document. labels: (trial,) bool, or 0 and 1. queries: (trial,) what query it is.
    ValueError for scores that are not finite, without trials of both classes, and for priors and costs that are none.
    """
    default_cost(p_target, c_miss, c_fa)
    values, wanted = checked_trials(scores, labels)
    query = np.unique(np.asarray(queries), return_inverse=True)[1]
    if query.shape != values.shape:
        raise ValueError(f"{query.size} queries for {len(values)} trials; give one per trial")
    targets = np.bincount(query, weights=wanted)
    others = np.bincount(query) - targets
    beta = c_fa / c_miss * (1.0 / p_target - 1.0)
    # What accepting one target adds to the sum over queries, and what one non-target takes.
    gain = np.divide(1.0, targets, out=np.zeros_like(targets), where=targets > 0)
    loss = np.divide(beta, others, out=np.zeros_like(targets), where=(targets > 0) & (others > 0))
    order = np.argsort(-values)
    ranked = values[order]
    total = np.cumsum(np.where(wanted, gain[query], -loss[query])[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each run of equal scores
    return max(0.0, float(total[last].max()) / int((targets > 0).sum()))
