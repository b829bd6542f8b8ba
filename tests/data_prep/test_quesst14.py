from __future__ import annotations

import shutil

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest
from audiossl.tasks.query_by_example import QueryByExample, Truth

quesst14 = registry.get("data_prep", "quesst14")


@pytest.fixture
def corpus(tmp_path):
    quesst14.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_english_is_searched_and_all_languages_are_listed(corpus, tmp_path):
    out = tmp_path / "out"
    quesst14.prepare(corpus, out)
    made = {part: list(Manifest.open(out / part).ids) for part in ("documents", "queries_dev", "queries_eval")}
    assert made["documents"] == [f"quesst14_0000{k}" for k in (1, 3, 4, 5)]
    assert made["queries_dev"] == ["quesst14_dev_0001", "quesst14_dev_0003"]
    assert made["queries_eval"] == ["quesst14_eval_0001", "quesst14_eval_0003"]
    assert (out / "documents" / "listed").read_text().split() == [f"quesst14_0000{k}" for k in range(1, 6)]
    assert (out / "queries_dev" / "relevant").read_text().splitlines() == [
        "quesst14_dev_0001 quesst14_00001",
        "quesst14_dev_0001 quesst14_00004",
        "quesst14_dev_0002 quesst14_00002",
        "quesst14_dev_0003 quesst14_00005",
    ]


def test_a_perfect_search_of_english_misses_the_other_language(corpus, tmp_path):
    quesst14.prepare(corpus / "quesst14Database", tmp_path / "out")
    queries, documents = (Manifest.open(tmp_path / "out" / part).ids for part in ("queries_dev", "documents"))
    truth = Truth.read(tmp_path / "out" / "queries_dev", tmp_path / "out" / "documents", documents)
    scores = np.array([[1.0, -1, 1, -1], [-1, -1, -1, 1.7]])
    found = QueryByExample().evaluate(scores, list(queries), list(documents), truth)
    assert found["mtwv"] == pytest.approx(2 / 3)
    assert found["mtwv_searched"] == 1


def test_other_languages(corpus, tmp_path):
    quesst14.prepare(corpus, tmp_path / "all", quesst14.Config(languages=("nnenglish", "czech")))
    assert len(Manifest.open(tmp_path / "all" / "documents")) == 5
    with pytest.raises(ValueError, match=r"prep\.languages: klingon has no documents; known: czech, nnenglish"):
        quesst14.prepare(corpus, tmp_path / "none", quesst14.Config(languages=("klingon",)))


def test_faults_are_named(corpus, tmp_path):
    scoring = corpus / "quesst14Database" / "scoring"
    shutil.copytree(scoring, tmp_path / "kept")
    (scoring / "language_key_dev.lst").write_text("Audio\n")
    with pytest.raises(ValueError, match=r"language_key_dev\.lst:1: 'Audio' is not `folder/path language`"):
        quesst14.prepare(corpus, tmp_path / "a")
    shutil.copy(tmp_path / "kept" / "language_key_dev.lst", scoring)
    truth = scoring / "groundtruth_quesst14_dev" / "quesst14_dev.rttm"
    truth.write_text("LEXEME x 1 0 1 y\n")
    with pytest.raises(ValueError, match=r"quesst14_dev\.rttm: says of no listed document"):
        quesst14.prepare(corpus, tmp_path / "b")
    truth.unlink()
    with pytest.raises(ValueError, match=r"quesst14_dev\.rttm: not found; unpack the corpus again"):
        quesst14.prepare(corpus, tmp_path / "c")
