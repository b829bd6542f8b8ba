"""How often a token lies nearer to one of another category than to one of its own."""

from __future__ import annotations

import numpy as np


def abx_error(
    distances: np.ndarray, categories: np.ndarray, categories_x: np.ndarray, *, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of triplets with d(A, X) > d(B, X), ties half, for each ordered pair of categories (Schatz, 2016).

    distances: (X, A or B). categories: (A or B,), categories_x: (X,), numbers. A and X are of one category, B of the other. symmetric: the
    same tokens stand on both sides, and none is compared with itself. Returns the categories of A and of B, (pair,) each, and their errors;
    pairs without a triplet are absent.
    """
    found_a, found_b, errors = [], [], []
    names, place = np.unique(categories, return_inverse=True)
    sizes = np.bincount(place)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    for number, name in enumerate(names.tolist()):
        rows, columns = np.flatnonzero(categories_x == name), np.flatnonzero(place == number)
        own = distances[np.ix_(rows, columns)]  # (X, A)
        valid = (rows[:, None] != columns) if symmetric else np.ones(own.shape, dtype=bool)
        if not valid.any() or len(names) < 2:
            continue
        other = distances[np.ix_(rows, order)][:, None]  # (X, 1, B)
        wrong = (own[..., None] > other) + 0.5 * (own[..., None] == other)
        counts = np.add.reduceat(wrong[valid].sum(axis=0), starts)  # (category of B,)
        against = np.flatnonzero(np.arange(len(names)) != number)
        found_a.append(np.full(len(against), name))
        found_b.append(names[against])
        errors.append(counts[against] / (valid.sum() * sizes[against]))
    if not errors:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    return np.concatenate(found_a), np.concatenate(found_b), np.concatenate(errors)
