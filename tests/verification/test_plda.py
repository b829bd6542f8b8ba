"""PLDA against the model's own definition: joint Gaussians of all utterances of a speaker, written out in full."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from voices import write_embeddings, write_trials

from audiossl.verification.embeddings import Embeddings, EmbeddingWriter
from audiossl.verification.plda import load_plda, plda_scores, save_plda, train_plda
from audiossl.verification.trials import read_trials


def log_gauss(x, mean, covariance):
    gap = x - mean
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (len(x) * np.log(2 * np.pi) + logdet + gap @ np.linalg.solve(covariance, gap))


def log_joint(rows, mean, between, within):
    """Density of all utterances of one speaker, as one long vector."""
    n = len(rows)
    covariance = np.kron(np.ones((n, n)), between) + np.kron(np.eye(n), within)
    return log_gauss(rows.ravel(), np.tile(mean, n), covariance)


def covariances(model):
    back = np.linalg.inv(model.transform)
    return model.mean, back @ np.diag(model.between) @ back.T, back @ back.T


def prepare(matrix, *, length_norm):
    x = matrix.astype(np.float64)
    x = x - x.mean(axis=0)
    return x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True) if length_norm else x


def uneven(folder, dim=3):
    """Speakers with 1 to 6 utterances."""
    matrix, ids, speaker = write_embeddings(folder / "all", speakers=15, each=6, dim=dim, spread=0.5)
    kept = [row for row in range(len(ids)) if row % 6 <= speaker[row] % 6]
    with EmbeddingWriter(folder / "e", dim) as writer:
        writer.add([ids[row] for row in kept], matrix[kept])
    (folder / "e" / "utt2spk").write_text("".join(f"{ids[row]} {ids[row].split('-')[0]}\n" for row in kept))
    return matrix[kept], speaker[kept]


@pytest.mark.parametrize("length_norm", [False, True])
def test_em_climbs_the_likelihood_of_the_definition(tmp_path, length_norm):
    matrix, speaker = uneven(tmp_path)
    store, said = Embeddings.open(tmp_path / "e"), []
    x = prepare(matrix, length_norm=length_norm)
    model = train_plda(store, iterations=30, length_norm=length_norm, log=lambda _, value: said.append(value))
    parameters = covariances(model)
    wanted = sum(log_joint(x[speaker == one], *parameters) for one in np.unique(speaker)) / len(x)
    assert len(said) == 31
    assert said[-1] == pytest.approx(wanted, rel=1e-9)
    assert (np.diff(said) >= -1e-12).all()
    assert said[1] > said[0]
    # At the maximum, no small change of the parameters is an improvement.
    model = train_plda(store, iterations=3000, length_norm=length_norm)
    best = covariances(model)
    total = sum(log_joint(x[speaker == one], *best) for one in np.unique(speaker))
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (1e-2 * (m + m.T) for m in rng.standard_normal((2, 3, 3)))
        moved = best[0] + 1e-2 * rng.standard_normal(3), best[1] + a, best[2] + b
        if min(np.linalg.eigvalsh(moved[1])[0], np.linalg.eigvalsh(moved[2])[0]) > 0:
            assert sum(log_joint(x[speaker == one], *moved) for one in np.unique(speaker)) < total


def test_one_iteration_is_that_of_full_posteriors(tmp_path):
    """The M-step of the two-covariance model, speaker by speaker with dense matrices."""
    matrix, speaker = uneven(tmp_path)
    store = Embeddings.open(tmp_path / "e")
    x = prepare(matrix, length_norm=False)
    mean, between, within = covariances(train_plda(store, iterations=4, length_norm=False))
    got = covariances(train_plda(store, iterations=5, length_norm=False))
    points, spreads, noise = [], [], np.zeros((3, 3))
    for one in np.unique(speaker):
        rows = x[speaker == one]
        spread = np.linalg.inv(np.linalg.inv(between) + len(rows) * np.linalg.inv(within))
        point = spread @ (np.linalg.inv(between) @ mean + np.linalg.inv(within) @ rows.sum(axis=0))
        points.append(point)
        spreads.append(spread)
        noise += sum(np.outer(row - point, row - point) + spread for row in rows)
    new_mean = np.mean(points, axis=0)
    new_between = np.mean(
        [np.outer(p - new_mean, p - new_mean) + s for p, s in zip(points, spreads, strict=True)], axis=0
    )
    for mine, wanted in zip(got, (new_mean, new_between, noise / len(x)), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-10)


@pytest.mark.parametrize("length_norm", [False, True])
@pytest.mark.parametrize("crops", [None, 2])
def test_scores_are_log_likelihood_ratios(tmp_path, length_norm, crops):
    matrix, ids, speaker = write_embeddings(tmp_path / "e", crops=crops)
    rows = write_trials(tmp_path / "trials", ids, speaker, count=80)
    store = Embeddings.open(tmp_path / "e")
    model = train_plda(store, length_norm=length_norm)
    got = plda_scores(read_trials(tmp_path / "trials"), store, model)
    x = prepare(matrix if crops is None else matrix.mean(axis=1), length_norm=length_norm)
    mean, between, within = covariances(model)
    alone = [log_gauss(row, mean, between + within) for row in x]
    wanted = [log_joint(x[[i, j]], mean, between, within) - alone[i] - alone[j] for i, j, _ in rows]
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    same = np.array([label for *_, label in rows])
    assert np.mean(got[same]) > 0 > np.mean(got[~same])


def test_points_of_a_second_length_are_scored_as_such(tmp_path):
    """The ratio of N(0, 1 + v) with correlation v / (1 + v) in each dimension, of points of the length sqrt(dim)."""
    matrix, ids, speaker = write_embeddings(tmp_path / "e")
    rows = write_trials(tmp_path / "trials", ids, speaker, count=40)
    store = Embeddings.open(tmp_path / "e")
    model = train_plda(store)
    trials = read_trials(tmp_path / "trials")
    got = plda_scores(trials, store, replace(model, rescale=True))
    points = (prepare(matrix, length_norm=True) - model.mean) @ model.transform.T
    points *= np.sqrt(8) / np.linalg.norm(points, axis=1, keepdims=True)
    between, zeros = np.diag(model.between), np.zeros(8)
    alone = [log_gauss(row, zeros, between + np.eye(8)) for row in points]
    wanted = [log_joint(points[[i, j]], zeros, between, np.eye(8)) - alone[i] - alone[j] for i, j, _ in rows]
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    assert np.abs(got - plda_scores(trials, store, model)).max() > 0.1


def test_saved_and_loaded(tmp_path):
    write_embeddings(tmp_path / "e")
    model = train_plda(Embeddings.open(tmp_path / "e"), iterations=2, length_norm=False)
    save_plda(tmp_path / "plda.safetensors", model)
    again = load_plda(tmp_path / "plda.safetensors")
    assert again.length_norm is False
    for name in ("center", "mean", "transform", "between"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert not list(tmp_path.glob("*.partial"))


def test_faults_of_plda(tmp_path):
    write_embeddings(tmp_path / "small", speakers=3, each=2)
    with pytest.raises(ValueError, match="6 utterances of 3 speakers are too few for 8 dimensions"):
        train_plda(Embeddings.open(tmp_path / "small"))
    with EmbeddingWriter(tmp_path / "flat", 2) as writer:
        writer.add([f"u{i}" for i in range(8)], np.stack([np.arange(8) % 3, np.arange(8) // 4], axis=1))
    (tmp_path / "flat" / "utt2spk").write_text("".join(f"u{i} s{i // 4}\n" for i in range(8)))
    with pytest.raises(ValueError, match="do not vary within speakers in every dimension"):
        train_plda(Embeddings.open(tmp_path / "flat"), length_norm=False)
    write_embeddings(tmp_path / "e")
    model = train_plda(Embeddings.open(tmp_path / "e"))
    write_embeddings(tmp_path / "wide", dim=9)
    (tmp_path / "trials").write_text("s00-0 s00-1 target\n")
    with pytest.raises(ValueError, match="embeddings of 9 numbers, the PLDA model is for 8"):
        plda_scores(read_trials(tmp_path / "trials"), Embeddings.open(tmp_path / "wide"), model)
    for content in (b"", b"no tensors at all"):
        (tmp_path / "broken.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="no PLDA model can be read"):
            load_plda(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="no PLDA model can be read"):
        load_plda(tmp_path / "nowhere.safetensors")
