"""Term-weighted value of a search for spoken queries at a threshold that was chosen before."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._detection import checked_trials, default_cost


def term_weighted_value(
    scores: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    *,
    threshold: float,
    p_target: float = 0.0008,
    c_miss: float = 100.0,
    c_fa: float = 1.0,
) -> float:
    """1 - mean over queries of (P_miss + beta P_fa) where trials above `threshold` are accepted (NIST 2006 spoken term detection evaluation plan).

    beta = c_fa / c_miss (1 / p_target - 1). It may be far below 0; `maximum_term_weighted_value` is its largest value over thresholds. Queries
    without a target trial are left out.

    scores: (trial,), higher where the query is in the document. labels: (trial,) bool, or 0 and 1. queries: (trial,) what query it is.
    """
    default_cost(p_target, c_miss, c_fa)
    values, wanted = checked_trials(scores, labels)
    query = np.unique(np.asarray(queries), return_inverse=True)[1]
    accepted = values > threshold
    targets, trials = np.bincount(query, weights=wanted), np.bincount(query)
    hits = np.bincount(query, weights=wanted & accepted)
    false_alarms = np.bincount(query, weights=accepted) - hits
    beta = c_fa / c_miss * (1.0 / p_target - 1.0)
    counts = targets > 0
    found = hits[counts] / targets[counts]
    invented = false_alarms[counts] / np.maximum((trials - targets)[counts], 1)
    return float(np.mean(found - beta * invented))
