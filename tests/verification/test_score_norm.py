"""S-norm and AS-norm against a loop over trials that scores each side with the cohort and sorts."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from voices import write_embeddings, write_trials

from audiossl.verification import _vectors, embeddings, score_norm
from audiossl.verification._vectors import Vectors, pair_scores, trial_rows, vectors_of
from audiossl.verification.cosine import Cosine
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter
from audiossl.verification.plda import train_plda
from audiossl.verification.score_norm import (
    cohort_speakers,
    cohort_statistics,
    cohort_utterances,
    normalise,
)
from audiossl.verification.system import Cohort, System
from audiossl.verification.trials import read_trials


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(score_norm, "_QUERIES", 7)
        monkeypatch.setattr(score_norm, "_COHORT", 5)
        monkeypatch.setattr(_vectors, "_TRIALS", 16)
        monkeypatch.setattr(embeddings, "_BLOCK_BYTES", 300)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def members(matrix, speaker, kind):
    """The cohort's vectors, from its definition."""
    units = unit(matrix.astype(np.float64))
    units = units if units.ndim == 2 else units.mean(axis=1)
    if kind == "utterances":
        return units
    means = np.stack([units[speaker == one].mean(axis=0) for one in np.unique(speaker)])
    return unit(means) if kind == "speakers" else means


@pytest.mark.parametrize("kind", ["utterances", "speakers", "plain speakers"])
@pytest.mark.parametrize("top", [None, 4])
@pytest.mark.parametrize("crops", [None, 3])
def test_equals_a_loop_over_trials(tmp_path, blocks, kind, top, crops):
    matrix, ids, speaker = write_embeddings(tmp_path / "e", crops=crops)
    other, _, other_speaker = write_embeddings(tmp_path / "c", speakers=9, each=4, crops=crops, seed=1, prefix="c")
    rows = write_trials(tmp_path / "trials", ids, speaker, count=60)
    trials, store, cohort = (
        read_trials(tmp_path / "trials"),
        Embeddings.open(tmp_path / "e"),
        Embeddings.open(tmp_path / "c"),
    )
    vectors = vectors_of(store, trial_rows(trials, store), Cosine())
    if kind == "utterances":
        parts = cohort_utterances(cohort, Cosine())
    else:
        parts = cohort_speakers(cohort, Cosine(), renormalise=kind == "speakers")
    statistics = cohort_statistics(vectors, parts, top=top)
    got = normalise(pair_scores(vectors, trials.enrol, trials.test), trials.enrol, trials.test, statistics)

    points, crowd = members(matrix, None, "utterances"), members(other, other_speaker, kind)
    wanted = []
    for i, j, _ in rows:
        sides = []
        for side in (i, j):
            best = sorted((float(points[side] @ one) for one in crowd), reverse=True)[:top]
            mean = sum(best) / len(best)
            deviation = (sum((s - mean) ** 2 for s in best) / len(best)) ** 0.5
            sides.append((float(points[i] @ points[j]) - mean) / deviation)
        wanted.append(sum(sides) / 2)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)  # float32 scores over deviations of about 0.1


def test_plda_scores_are_normalised_alike(tmp_path):
    _, ids, speaker = write_embeddings(tmp_path / "e")
    write_embeddings(tmp_path / "c", seed=1, prefix="c")
    write_trials(tmp_path / "trials", ids, speaker, count=40)
    trials, store, cohort = (
        read_trials(tmp_path / "trials"),
        Embeddings.open(tmp_path / "e"),
        Embeddings.open(tmp_path / "c"),
    )
    model = train_plda(cohort)
    vectors = vectors_of(store, trial_rows(trials, store), model)
    statistics = cohort_statistics(vectors, cohort_utterances(cohort, model), top=10)
    # Together in one store, cohort pairs are trials like all others.
    crowd = vectors_of(cohort, np.arange(len(cohort)), model)
    both = Vectors(np.concatenate([vectors.matrix, crowd.matrix]), np.concatenate([vectors.offset, crowd.offset]))
    for row in range(0, len(trials.names), 9):
        left = np.full(len(cohort), row)
        best = np.sort(pair_scores(both, left, len(trials.names) + np.arange(len(cohort))))[-10:].astype(np.float64)
        assert statistics.mean[row] == pytest.approx(best.mean(), rel=1e-5, abs=1e-5)
        assert statistics.std[row] == pytest.approx(best.std(), rel=1e-4)


def test_moments_of_scores_far_from_zero_are_exact():
    """Sums of squares would lose them."""
    rng = np.random.default_rng(0)
    scores = 1000 + 0.01 * rng.standard_normal((3, 50))
    keeper = score_norm._Moments(3)
    for start in range(0, 50, 10):
        keeper.add(slice(0, 3), scores[:, start : start + 10].astype(np.float32))
    exact = scores.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(keeper.statistics().mean, exact.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(keeper.statistics().std, exact.std(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("top", "message"),
    [(13, "the cohort has 12 members, fewer than 13"), (1, "top 1: a deviation needs at least 2")],
)
def test_a_cohort_too_small_is_refused(tmp_path, top, message):
    write_embeddings(tmp_path, speakers=3, each=4)
    store = Embeddings.open(tmp_path)
    vectors = vectors_of(store, np.arange(12), Cosine())
    with pytest.raises(ValueError, match=message):
        cohort_statistics(vectors, cohort_utterances(store, Cosine()), top=top)


@pytest.mark.parametrize("top", [None, 3])
def test_a_cohort_of_one_voice_is_refused(tmp_path, top):
    with EmbeddingWriter(tmp_path, 3) as writer:
        writer.add(["a", "b", "c", "d"], np.tile([0.3, 0.2, 0.1], (4, 1)))
    store = Embeddings.open(tmp_path)
    vectors = vectors_of(store, np.arange(2), Cosine())
    with pytest.raises(ValueError, match="2 utterances score alike with all of their cohort"):
        cohort_statistics(vectors, cohort_utterances(store, Cosine()), top=top)


@pytest.mark.parametrize("top", [None, 4])
def test_a_cohort_is_scored_in_large_blocks_and_its_scores_are_judged_in_threads(tmp_path, monkeypatch, top):
    monkeypatch.setattr(embeddings, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(score_norm, "_COHORT", 30)
    monkeypatch.setattr(score_norm, "_PIECE", 5)
    widths, threads = [], set()
    keeper = score_norm._Moments if top is None else score_norm._Best
    add = keeper.add

    def counted(self, where, scores):
        widths.append(scores.shape[1])
        threads.add(threading.get_ident())
        add(self, where, scores)

    monkeypatch.setattr(keeper, "add", counted)
    write_embeddings(tmp_path, speakers=18, each=4)
    store = Embeddings.open(tmp_path)
    cohort_statistics(vectors_of(store, np.arange(72), Cosine()), cohort_utterances(store, Cosine()), top=top)
    assert sorted(widths) == sorted([30, 30, 12] * 15)
    assert threading.get_ident() not in threads


@pytest.fixture
def nearly_equal(tmp_path):
    """Embeddings whose cosines are all about 0.998, and a cohort like them."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(12)
    for name, count in (("e", 60), ("c", 80)):
        with EmbeddingWriter(tmp_path / name, 12) as writer:
            writer.add([f"{name}{row}" for row in range(count)], base + 0.04 * rng.standard_normal((count, 12)))
        (tmp_path / name / "utt2spk").write_text("".join(f"{name}{row} {row // 4}\n" for row in range(count)))
    lines = [f"1 e{i} e{j}\n" for i, j in rng.integers(0, 60, (200, 2)) if i != j]
    (tmp_path / "trials").write_text("".join(lines))
    stores = [Embeddings.open(tmp_path / name) for name in ("e", "c")]
    return read_trials(tmp_path / "trials"), *stores


@pytest.mark.parametrize("kind", ["utterances", "speakers", "plain speakers"])
@pytest.mark.parametrize("top", [None, 5])
def test_nearly_equal_embeddings_keep_their_digits(nearly_equal, kind, top):
    trials, store, cohort = nearly_equal
    speaker, _ = cohort.speakers()
    crowd, points = members(cohort.matrix, speaker, kind), members(store.matrix, None, "utterances")
    sides = [points[store.rows(trials.names)][side] for side in (trials.enrol, trials.test)]
    plain = (sides[0] * sides[1]).sum(axis=1)
    best = [np.sort(side @ crowd.T, axis=1)[:, -(top or len(crowd)) :] for side in sides]
    wanted = sum((plain - one.mean(axis=1)) / one.std(axis=1) for one in best) / 2
    assert plain.min() > 0.99
    assert np.median(best[0].std(axis=1)) < 2e-3
    system = System(store, Cosine(), Cohort(cohort, top, kind != "utterances", kind == "speakers"))
    np.testing.assert_allclose(system.score(trials)[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("top", [None, 5])
def test_plda_scores_of_nearly_equal_embeddings_keep_their_digits(nearly_equal, top):
    trials, store, cohort = nearly_equal
    model = train_plda(cohort)
    points = [model.points(one.matrix) for one in (store, cohort)]
    v = model.between

    def ratio(x, y):
        square = -0.5 * v**2 / ((1 + v) * (1 + 2 * v)) * (x**2 + y**2) + v / (1 + 2 * v) * x * y
        return (square + np.log1p(v) - 0.5 * np.log1p(2 * v)).sum(axis=-1)

    queries = points[0][store.rows(trials.names)]
    best = np.sort(ratio(queries[:, None], points[1][None]), axis=1)[:, -(top or len(cohort)) :]
    enrol, test = trials.enrol, trials.test
    plain, mean, std = ratio(queries[enrol], queries[test]), best.mean(axis=1), best.std(axis=1)
    wanted = ((plain - mean[enrol]) / std[enrol] + (plain - mean[test]) / std[test]) / 2
    got, _ = System(store, model, Cohort(cohort, top)).score(trials)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
