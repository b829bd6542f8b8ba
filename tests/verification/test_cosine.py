"""Cosine scores against a loop over trials and pairs of crops."""

from __future__ import annotations

import numpy as np
import pytest
from voices import write_embeddings, write_trials

from audiossl.verification import _vectors
from audiossl.verification.cosine import cosine_scores
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter
from audiossl.verification.trials import read_trials


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("crops", [None, 1, 4])
@pytest.mark.parametrize("centred", [False, True])
def test_equals_the_mean_over_pairs_of_crops(tmp_path, crops, centred, monkeypatch):
    monkeypatch.setattr(_vectors, "_TRIALS", 16)
    monkeypatch.setattr(_vectors, "_BLOCKS", 3)
    matrix, ids, speaker = write_embeddings(tmp_path / "e", crops=crops, spread=2)
    rows = write_trials(tmp_path / "trials", ids, speaker)
    mean = np.arange(8) / 2 if centred else None
    got = cosine_scores(read_trials(tmp_path / "trials"), Embeddings.open(tmp_path / "e"), mean=mean)
    pieces = (matrix if crops else matrix[:, None]) - (mean if centred else 0)
    wanted = [np.mean([cosine(a, b) for a in pieces[i] for b in pieces[j]]) for i, j, _ in rows]
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert np.std(wanted) > 0.1


def test_pairs_keep_their_place_whatever_their_order():
    """Pairs are scored in the order of their rows, by 16 bits of these: with more rows some share a number."""
    rng = np.random.default_rng(0)
    vectors = _vectors.Vectors(rng.standard_normal((150_000, 2), dtype=np.float32), rng.standard_normal(150_000))
    left, right = rng.integers(0, 150_000, (2, 5000)).astype(np.int32)
    wanted = (vectors.matrix[left] * vectors.matrix[right]).sum(1) + vectors.offset[left] + vectors.offset[right]
    np.testing.assert_allclose(_vectors.pair_scores(vectors, left, right), wanted, rtol=1e-5, atol=1e-5)
    order = _vectors._neighbours(left, 150_000)
    assert np.array_equal(np.sort(order), np.arange(5000))
    assert (
        np.abs(np.diff(left[order])).sum() < 150_000 + 4 * 5000
    )  # once through all rows; neighbours differ by 3 at the most


def test_missing_utterance_names_the_trial(tmp_path):
    write_embeddings(tmp_path / "e")
    (tmp_path / "trials").write_text("s00-0 s00-1 target\ns00-0 s77-1 nontarget\nx s00-1 nontarget\n")
    with pytest.raises(ValueError, match=r"trials:2: .* no embedding of 's77-1' and 1 others"):
        cosine_scores(read_trials(tmp_path / "trials"), Embeddings.open(tmp_path / "e"))


def test_a_zero_embedding_is_named(tmp_path):
    with EmbeddingWriter(tmp_path / "e", 3) as writer:
        writer.add(["a", "b"], np.array([[1, 2, 3], [0, 0, 0]]))
    (tmp_path / "trials").write_text("a b target\n")
    with pytest.raises(ValueError, match="embedding of b is zero or not finite"):
        cosine_scores(read_trials(tmp_path / "trials"), Embeddings.open(tmp_path / "e"))


def test_huge_and_tiny_embeddings_have_cosines_too(tmp_path):
    with EmbeddingWriter(tmp_path / "e", 2) as writer:
        writer.add(["a", "b"], np.array([[3e25, 4e25], [3e-25, 0]]))
    (tmp_path / "trials").write_text("a b target\n")
    got = cosine_scores(read_trials(tmp_path / "trials"), Embeddings.open(tmp_path / "e"))
    np.testing.assert_allclose(got, [0.6], atol=1e-6)
