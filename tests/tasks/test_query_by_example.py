"""Scores of a search against the metrics on trials written out one by one, and the files that say what is relevant."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics.maximum_term_weighted_value import maximum_term_weighted_value
from audiossl.tasks.query_by_example import QueryByExample, Truth

QUERIES, DOCUMENTS = ["q1", "q2", "q3"], [f"d{k:02d}" for k in range(40)]
FOREIGN = ["x1", "x2"]


def files(tmp_path, relevant, listed=()):
    (tmp_path / "queries").mkdir()
    (tmp_path / "documents").mkdir()
    (tmp_path / "queries" / "relevant").write_text("".join(f"{q} {d}\n" for q, d in relevant))
    if listed:
        (tmp_path / "documents" / "listed").write_text("".join(f"{d}\n" for d in listed))
    return Truth.read(tmp_path / "queries", tmp_path / "documents", DOCUMENTS)


def searched(pairs):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 40))
    for query, document in pairs:
        if query in QUERIES and document in DOCUMENTS:
            scores[QUERIES.index(query), DOCUMENTS.index(document)] += 4
    return (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)


def value(scores, pairs, queries, documents):
    """Trials one by one; a pair that was not searched is below all others."""
    rows = []
    for query in queries:
        for document in documents:
            known = query in QUERIES and document in DOCUMENTS
            score = scores[QUERIES.index(query), DOCUMENTS.index(document)] if known else -10.0
            rows.append((score, (query, document) in pairs, query))
    return maximum_term_weighted_value(*(np.array(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("foreign", [False, True])
def test_pairs_that_were_not_searched_count_as_rejected(tmp_path, foreign):
    pairs = [("q1", "d03"), ("q1", "d17"), ("q3", "d05")]  # q2 is nowhere
    listed = [*DOCUMENTS, *FOREIGN] if foreign else []
    if foreign:
        pairs += [("qx", "x1"), ("q3", "x2")]
    truth = files(tmp_path, pairs, listed)
    scores = searched(pairs)
    found = QueryByExample().evaluate(scores, QUERIES, DOCUMENTS, truth)
    every = [*QUERIES, "qx"] if foreign else QUERIES
    assert found["mtwv"] == pytest.approx(value(scores, set(pairs), every, listed or DOCUMENTS))
    assert found["mtwv_searched"] == pytest.approx(value(scores, set(pairs), QUERIES, DOCUMENTS))
    assert (found["mtwv"] < found["mtwv_searched"]) == foreign
    assert found["mtwv_searched"] > 0.5
    assert found["atwv"] <= found["mtwv"]


def test_order_of_the_search_does_not_matter(tmp_path):
    pairs = [("q1", "d03"), ("q3", "d05")]
    truth, scores = files(tmp_path, pairs), searched(pairs)
    mixed = QueryByExample().evaluate(scores[::-1, ::-1], QUERIES[::-1], DOCUMENTS[::-1], truth)
    assert mixed == QueryByExample().evaluate(scores, QUERIES, DOCUMENTS, truth)


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"relevant:2: 'd99' is not among the documents"):
        files(tmp_path, [("q1", "d03"), ("q1", "d99")])
    (tmp_path / "queries" / "relevant").write_text("qx d01\n")
    truth = Truth.read(tmp_path / "queries", tmp_path / "documents", DOCUMENTS)
    with pytest.raises(ValueError, match="none of the searched documents holds a searched query"):
        QueryByExample().evaluate(searched([]), QUERIES, DOCUMENTS, truth)
    with pytest.raises(ValueError, match="'d77' was searched and is not listed"):
        truth.places(QUERIES, [*DOCUMENTS, "d77"])
    (tmp_path / "queries" / "relevant").unlink()
    with pytest.raises(ValueError, match="relevant: no such file; write a line"):
        Truth.read(tmp_path / "queries", tmp_path / "documents", DOCUMENTS)
