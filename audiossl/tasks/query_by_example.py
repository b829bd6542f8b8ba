"""Query by example: in which recordings a spoken query is heard, by the frames of one layer and nothing trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from audiossl.data.kaldi import read_table
from audiossl.metrics.maximum_term_weighted_value import maximum_term_weighted_value
from audiossl.metrics.term_weighted_value import term_weighted_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

RELEVANT = "relevant"
"""Beside the queries: `query document` lines, every document that holds a query."""
LISTED = "listed"
"""Beside the documents, if more are scored than searched: ids of all of them, one per line."""


class QueryByExample:
    """The task QbE of SUPERB (Yang et al., 2021, section 3.2): subsequence alignment of queries with documents (`superb.search` does that).

    `mtwv` is that of all queries of `relevant` and all documents of `listed`, as the README of QUESST's scoring tool has it (2015): a pair that was not
    searched, such as one of another language, counts as rejected, for SUPERB's command gives it -10. `mtwv_searched` is that of the searched pairs alone.
    """

    variant: ClassVar[str] = "MTWV by our own scoring, not compared with the published tool"

    @dataclass(frozen=True)
    class Config:
        """Defaults are the protocol's.

        distance: between two frames; `cosine_exp` is exp(1 - cos) - 1. min_max: map the distances of each query frame to one document to [0, 1].
        min_frames: shorter queries score 0 everywhere. deviations: a score above so many deviations of its query's scores is a detection.
        gain_db: put on all recordings.
        """

        distance: Literal["cosine_exp", "cosine", "euclidean", "cityblock"] = "cosine_exp"
        min_max: bool = True
        min_frames: int = 5
        deviations: float = 2.0
        gain_db: float = -3.0

        @classmethod
        def tiny(cls) -> QueryByExample.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls()

    metric: tuple[str, Literal["min", "max"]] = ("mtwv", "max")
    runner: ClassVar[str] = "search"
    optional_files: ClassVar[tuple[str, ...]] = (LISTED,)

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or QueryByExample.Config()

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """What documents count, and what is in them."""
        return (LISTED,) if part == "documents" else (RELEVANT,)

    def evaluate(
        self, scores: np.ndarray, queries: Sequence[str], documents: Sequence[str], truth: Truth
    ) -> dict[str, float]:
        """Score a search; `atwv` is the value at the threshold `deviations`.

        scores: (query, document), mean 0 and deviation 1 over the documents of each query. queries, documents: ids of its rows and columns.
        """
        floor = float(scores.min()) - 1.0
        rows, columns = truth.places(queries, documents)
        every = np.full(truth.relevant.shape, floor)
        every[rows[rows >= 0][:, None], columns] = scores[rows >= 0]
        query = np.broadcast_to(np.arange(len(every))[:, None], every.shape)
        own = rows[rows >= 0]
        searched = scores[rows >= 0], truth.relevant[own[:, None], columns]
        if not searched[1].any():
            raise ValueError(f"{truth.path}: none of the searched documents holds a searched query; give others")
        all_trials = every.ravel(), truth.relevant.ravel(), query.ravel()
        return {
            "mtwv": maximum_term_weighted_value(*all_trials),
            "mtwv_searched": maximum_term_weighted_value(
                searched[0].ravel(), searched[1].ravel(), np.repeat(np.arange(len(own)), len(columns))
            ),
            "atwv": term_weighted_value(*all_trials, threshold=self.config.deviations),
        }

    def answers(self, scores: np.ndarray, queries: Sequence[str], documents: Sequence[str]) -> dict[str, Iterable[str]]:
        """Lines `query document score` of all that was searched. scores: as for `evaluate`."""
        return {
            "scores": (
                f"{query} {document} {score:.9g}"
                for query, row in zip(queries, scores, strict=True)
                for document, score in zip(documents, row.tolist(), strict=True)
            )
        }


@dataclass(frozen=True)
class Truth:
    """What a search should find.

    path: of `relevant`. queries: those that are in some document. documents: all that count. relevant: (query, document) bool.
    """

    path: Path
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: np.ndarray

    @classmethod
    def read(cls, queries: Path, documents: Path, held: Sequence[str]) -> Self:
        """Read `relevant` of a directory of queries and `listed` of one of documents; without it, those that the directory has, `held`, are all.

        ValueError names a line of which the document is not listed.
        """
        path = queries / RELEVANT
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; write a line `query document` for every document that holds a query"
            )
        listing = documents / LISTED
        every = tuple(name for _, name, _ in read_table(listing)) if listing.is_file() else tuple(held)
        column = {name: index for index, name in enumerate(every)}
        row: dict[str, int] = {}
        pairs = []
        for number, query, document in read_table(path):
            if document not in column:
                raise ValueError(
                    f"{path}:{number}: {document!r} is not among the documents; take the line out, or list it in {listing}"
                )
            pairs.append((row.setdefault(query, len(row)), column[document]))
        relevant = np.zeros((len(row), len(every)), dtype=np.bool_)
        relevant[tuple(np.array(pairs).T)] = True
        return cls(path, tuple(row), every, relevant)

    def check(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        """Raise ValueError where a search of these could find nothing, and for a document that is not listed."""
        rows, columns = self.places(queries, documents)
        if not self.relevant[rows[rows >= 0][:, None], columns].any():
            raise ValueError(f"{self.path}: none of the searched documents holds a searched query; give others")

    def places(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Row of each query, -1 where it is in no document, and column of each document; ValueError for one that is not listed."""
        row = {name: index for index, name in enumerate(self.queries)}
        column = {name: index for index, name in enumerate(self.documents)}
        stranger = next((name for name in documents if name not in column), None)
        if stranger is not None:
            raise ValueError(f"{self.path.parent}: {stranger!r} was searched and is not listed; add it to `{LISTED}`")
        rows = np.array([row.get(name, -1) for name in queries], dtype=np.int64)
        return rows, np.array([column[name] for name in documents], dtype=np.int64)
