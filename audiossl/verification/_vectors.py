"""Back-ends as vectors: whatever compares two utterances by a dot product, and the few loops over blocks that all share."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.trials import Trials

T = TypeVar("T")

_TRIALS = 128  # per block: two blocks of gathered vectors stay in a core's own cache
_BLOCKS = 64  # per call of a thread


@dataclass(frozen=True)
class Vectors:
    """Utterances of which two are compared by score(i, j) = matrix[i] . matrix[j] + offset[i] + offset[j].

    matrix: (row, dim) float32, or float64 where small differences of scores count. offset: (row,) float64, None for zeros.
    """

    matrix: np.ndarray
    offset: np.ndarray | None = None


class BackEnd(Protocol):
    """What turns embeddings into scores."""

    def points(self, embeddings: np.ndarray) -> np.ndarray:
        """(row, [crop,] dim) float32 -> (row, dim) float64: the space in which several utterances of a speaker are averaged."""
        ...

    def unit(self, points: np.ndarray) -> np.ndarray:
        """(row, dim) -> the same, means of several points brought back to the length of one."""
        ...

    def vectors(self, points: np.ndarray) -> Vectors:
        """(row, dim) -> what is compared, in float64."""
        ...


def vectors_of(embeddings: Embeddings, rows: np.ndarray, back_end: BackEnd, *, exact: bool = False) -> Vectors:
    """Prepare each row once; ValueError names an utterance whose embedding cannot be compared. exact: hold float64."""

    def prepared(where: slice) -> Vectors:
        block = embeddings.matrix.take(rows[where], axis=0)
        return back_end.vectors(checked_points(embeddings, rows[where], back_end.points(block)))

    first = prepared(slice(0, 1))
    matrix = np.empty((len(rows), first.matrix.shape[1]), dtype=np.float64 if exact else np.float32)
    offset = None if first.offset is None else np.empty(len(rows))

    def work(where: slice) -> None:
        part = prepared(where)
        matrix[where] = part.matrix
        if offset is not None:
            offset[where] = part.offset

    _in_threads(work, embeddings.slices(len(rows)))
    return Vectors(matrix, offset)


def crop_mean(embeddings: np.ndarray) -> np.ndarray:
    """(row, [crop,] dim) -> (row, dim)."""
    return embeddings if embeddings.ndim == 2 else embeddings.mean(axis=1, dtype=np.float64)


def checked_points(embeddings: Embeddings, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points, (row, dim); ValueError names the utterance whose embedding was zero or not finite.

    rows: (row,) where the points come from.
    """
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        name = embeddings.ids[int(rows[int(np.argmin(finite))])]
        raise ValueError(f"{embeddings.path}: the embedding of {name} is zero or not finite; extract it again")
    return points


def add_by_group(sums: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> None:
    """Add each of `rows`, (row, dim), to sums[its group]. sums: (group, dim) float64. groups: (row,)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    sums[ordered[starts]] += np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)


def trial_rows(trials: Trials, embeddings: Embeddings) -> np.ndarray:
    """(name,) int64, the row of each of the trials' utterances; ValueError names the first trial that lacks one."""
    rows = embeddings.find(trials.names)
    absent = rows < 0
    if absent.any():
        trial = int(np.argmax(absent[trials.enrol] | absent[trials.test]))
        side = trials.enrol if absent[trials.enrol[trial]] else trials.test
        others = f" and {count} others" if (count := int(absent.sum()) - 1) else ""
        raise ValueError(
            f"{trials.place(trial)}: {embeddings.path} holds no embedding of {trials.names[side[trial]]!r}{others}; "
            "extract them, or remove their trials"
        )
    return rows


def pair_scores(vectors: Vectors, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(pair,) scores of pairs of rows, in their precision, a hundred at a time. left, right: (pair,) rows of `vectors`."""
    matrix, offset = vectors.matrix, vectors.offset
    scores = np.empty(len(left), dtype=matrix.dtype)
    order = _neighbours(left, len(matrix))

    def work(begin: int) -> None:
        part = order[begin : begin + _BLOCKS * _TRIALS]
        for start in range(0, len(part), _TRIALS):
            block = part[start : start + _TRIALS]
            first, second = left[block], right[block]
            dots = np.einsum("ij,ij->i", matrix.take(first, axis=0), matrix.take(second, axis=0))
            scores[block] = dots if offset is None else dots + offset[first] + offset[second]

    _in_threads(work, range(0, len(left), _BLOCKS * _TRIALS))
    return scores


def _neighbours(rows: np.ndarray, count: int) -> np.ndarray:
    """Order in which pairs that share a row, or have close ones, follow each other, so that it is fetched from memory once.

    Numbers of 16 bits are sorted by radix, in a fraction of the time of wider ones; the few rows that share one lie together anyway.
    """
    coarse = rows >> max(0, (count - 1).bit_length() - 16)
    order: np.ndarray = np.argsort(coarse.astype(np.uint16), kind="stable")
    return order


def _in_threads(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call `work` on all items; gathering rows and multiplying them run outside of the interpreter's lock."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        deque(pool.map(work, items), maxlen=0)
