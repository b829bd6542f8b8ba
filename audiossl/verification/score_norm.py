"""Score normalisation against a cohort: S-norm and its adaptive form, AS-norm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from audiossl.verification._vectors import Vectors, _in_threads, add_by_group, checked_points, vectors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from audiossl.verification._vectors import BackEnd
    from audiossl.verification.embeddings import Embeddings

_QUERIES = 1024  # per product with a block of the cohort
_COHORT = 8192
_PIECE = 64  # queries whose best scores a thread looks for at a time


@dataclass(frozen=True)
class CohortStatistics:
    """Mean and standard deviation of the scores of each utterance with its cohort: (row,) float64 each."""

    mean: np.ndarray
    std: np.ndarray


def cohort_utterances(cohort: Embeddings, back_end: BackEnd) -> Iterator[Vectors]:
    """Yield a cohort of utterances, by blocks, in float64."""
    rows = np.arange(len(cohort))
    for start in range(0, len(rows), _COHORT):
        yield vectors_of(cohort, rows[start : start + _COHORT], back_end, exact=True)


def cohort_speakers(cohort: Embeddings, back_end: BackEnd, *, renormalise: bool = True) -> Iterator[Vectors]:
    """Yield a cohort of speakers, each the mean of its utterances, by blocks, in float64; their ids come from `utt2spk`.

    The mean is of the back-end's points: for cosines, of embeddings divided by their lengths, where WeSpeaker averages them as they are.
    renormalise: bring the mean back to the length of one utterance, so that its scores are cosines again. Without it, a speaker's scores
    shrink with the spread of its utterances.
    """
    speaker, names = cohort.speakers()
    rows = np.arange(len(cohort))
    sums: np.ndarray | None = None
    for where, block in cohort.blocks():
        points = checked_points(cohort, rows[where], back_end.points(block))
        if sums is None:
            sums = np.zeros((len(names), points.shape[1]))
        add_by_group(sums, speaker[where], points)
    assert sums is not None
    means = sums / np.bincount(speaker, minlength=len(names))[:, None]
    for start in range(0, len(means), _COHORT):
        part = means[start : start + _COHORT]
        yield back_end.vectors(back_end.unit(part) if renormalise else part)


def cohort_statistics(queries: Vectors, cohort: Iterable[Vectors], *, top: int | None) -> CohortStatistics:
    """Score every query with the whole cohort and keep mean and standard deviation, of all scores or of the `top` highest.

    The deviation is that of a population (divided by the count). Matrix products of blocks; what is held are the queries and, for
    each, its `top` best scores. ValueError where the cohort is smaller than `top`, and for a query whose cohort scores are all alike.
    """
    if top is not None and top < 2:
        raise ValueError(f"top {top}: a deviation needs at least 2 cohort scores; 300 is usual")
    keeper = _Moments(len(queries.matrix)) if top is None else _Best(len(queries.matrix), top)
    size = 0
    for part in cohort:
        for first in range(0, len(part.matrix), _COHORT):
            block = _rows(part, slice(first, first + _COHORT))
            size += len(block.matrix)
            for start in range(0, len(queries.matrix), _QUERIES):
                scores = _products(_rows(queries, slice(start, start + _QUERIES)), block)
                _in_threads(partial(_add, keeper, start, scores), range(0, len(scores), _PIECE))
    if size < (top or 2):
        raise ValueError(f"the cohort has {size} members, fewer than {top or 2}; give a larger cohort or a smaller top")
    statistics = keeper.statistics()
    # What rounding leaves of equal scores is no spread.
    flat = statistics.std <= 1e-9 * np.abs(statistics.mean)
    if flat.any():
        raise ValueError(
            f"{int(flat.sum())} utterances score alike with all of their cohort, so that their scores cannot be scaled; "
            "give a cohort of different speakers"
        )
    return statistics


def normalise(scores: np.ndarray, enrol: np.ndarray, test: np.ndarray, statistics: CohortStatistics) -> np.ndarray:
    """Symmetric normalisation, s' = 1/2 [(s - m_enrol) / d_enrol + (s - m_test) / d_test]: (trial,) float64.

    With statistics of the whole cohort it is S-norm (Kenny, 2010); with those of the top scores it is AS-norm, each side with its own
    best cohort (AS-norm1 of Matejka et al., 2017, equation 6). scores: (trial,). enrol, test: (trial,) rows of the statistics.
    """
    mean, scale = statistics.mean, 1.0 / statistics.std
    normalised: np.ndarray = 0.5 * ((scores - mean[enrol]) * scale[enrol] + (scores - mean[test]) * scale[test])
    return normalised


class _Moments:
    """Mean and sum of squared deviations of ever more scores per query (Chan et al., 1979)."""

    def __init__(self, queries: int) -> None:
        self._count = np.zeros(queries)
        self._mean, self._squares = np.zeros(queries), np.zeros(queries)

    def add(self, where: slice, scores: np.ndarray) -> None:
        """scores: (query, cohort); spoilt."""
        old, new = self._count[where], scores.shape[1]
        mean = scores.mean(axis=1, dtype=np.float64)
        scores -= mean[:, None]
        squares = np.einsum("qc,qc->q", scores, scores, dtype=np.float64)
        gap = mean - self._mean[where]
        self._squares[where] += squares + gap**2 * old * new / (old + new)
        self._mean[where] += gap * new / (old + new)
        self._count[where] += new

    def statistics(self) -> CohortStatistics:
        return CohortStatistics(self._mean, np.sqrt(self._squares / self._count))


class _Best:
    """The highest scores of each query."""

    def __init__(self, queries: int, top: int) -> None:
        self._top = top
        self._best = np.full((queries, top), -np.inf)

    def add(self, where: slice, scores: np.ndarray) -> None:
        """scores: (query, cohort); spoilt."""
        scores = self._highest(scores)
        self._best[where] = self._highest(np.concatenate([self._best[where], scores], axis=1))

    def statistics(self) -> CohortStatistics:
        mean, std = np.empty(len(self._best)), np.empty(len(self._best))
        for start in range(0, len(self._best), _QUERIES):
            block = self._best[start : start + _QUERIES]
            mean[start : start + _QUERIES], std[start : start + _QUERIES] = block.mean(axis=1), block.std(axis=1)
        return CohortStatistics(mean, std)

    def _highest(self, scores: np.ndarray) -> np.ndarray:
        surplus = scores.shape[1] - self._top
        if surplus <= 0:
            return scores
        scores.partition(surplus, axis=1)
        return scores[:, surplus:]


def _add(keeper: _Moments | _Best, first: int, scores: np.ndarray, begin: int) -> None:
    """Show the keeper some rows of scores, whose row 0 is query `first`."""
    piece = scores[begin : begin + _PIECE]
    keeper.add(slice(first + begin, first + begin + len(piece)), piece)


def _products(queries: Vectors, cohort: Vectors) -> np.ndarray:
    """(query, cohort) scores, in float64 as the cohort: their deviation may be a thousandth of them."""
    scores: np.ndarray = queries.matrix @ cohort.matrix.T
    if queries.offset is not None and cohort.offset is not None:
        scores += queries.offset[:, None]
        scores += cohort.offset[None]
    return scores


def _rows(vectors: Vectors, where: slice) -> Vectors:
    return Vectors(vectors.matrix[where], None if vectors.offset is None else vectors.offset[where])
