"""Structural similarity of two signals: how far they have common sign and size."""

from __future__ import annotations

import numpy as np


def sdsc(estimate: np.ndarray, reference: np.ndarray) -> float:
    """2 sum_t H(e_t r_t) min(|e_t|, |r_t|) / sum_t (|e_t| + |r_t|), from 0 to 1 (SDSC: A Structure-Aware Metric for Semantic Signal Representation Learning).

    H is the step: samples of differing sign share nothing, however small they are, which a squared error does not see. 1 where the two are equal; 0 where all
    signs differ, where either is silent, and where both are. estimate, reference: (sample,), or (signal, sample), whose mean over signals it is. ValueError for
    other shapes.
    """
    e, r = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if e.ndim not in {1, 2} or not len(e) or e.shape != r.shape:
        raise ValueError(
            f"an estimate of shape {e.shape} for a reference of shape {r.shape}; give (sample,) or (signal, sample) of as many"
        )
    size = (np.abs(e) + np.abs(r)).sum(axis=-1)
    common = np.where(e * r > 0, np.minimum(np.abs(e), np.abs(r)), 0.0).sum(axis=-1)
    return float(np.mean(2.0 * common / np.where(size > 0, size, 1.0)))
