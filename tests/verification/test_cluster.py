"""Clusters of embeddings against slow definitions."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings

import numpy as np
import pytest
import torch
from voices import write_embeddings

from audiossl.losses._sinkhorn import sinkhorn
from audiossl.nn.gather import Layout
from audiossl.verification import cluster as module
from audiossl.verification.cluster import cluster
from audiossl.verification.cosine import Cosine
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter


def directions(matrix):
    exact = matrix.astype(np.float64)
    units = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    if units.ndim == 3:
        units = units.mean(axis=1)
    return units / np.linalg.norm(units, axis=-1, keepdims=True)


@pytest.mark.parametrize("crops", [None, 3])
def test_outcome_is_a_fixed_point(tmp_path, crops, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)
    matrix, _, _ = write_embeddings(tmp_path, crops=crops)
    found = cluster(Embeddings.open(tmp_path), 9, iterations=100, seed=0)
    points = directions(matrix)
    assert 1 < found.iterations < 100
    assert found.labels.tolist() == [int(np.argmax([c @ p for c in found.centroids])) for p in points]
    assert found.counts.tolist() == [int((found.labels == k).sum()) for k in range(9)]
    total = 0.0
    for k in range(9):
        mean = points[found.labels == k].sum(axis=0)
        np.testing.assert_allclose(found.centroids[k], mean / np.linalg.norm(mean), atol=1e-5)
        total += sum(point @ mean / np.linalg.norm(mean) for point in points[found.labels == k])
    assert found.cosine == pytest.approx(total / 72, abs=1e-6)


def test_speakers_that_are_apart_are_the_clusters(tmp_path):
    _, _, speaker = write_embeddings(tmp_path, spread=0.05)
    found = cluster(Embeddings.open(tmp_path), 12, iterations=20, seed=1)
    assert len(set(zip(speaker.tolist(), found.labels.tolist(), strict=True))) == 12


def test_length_does_not_matter_but_the_seed_does(tmp_path):
    matrix, ids, _ = write_embeddings(tmp_path / "a")
    lengths = np.random.default_rng(5).uniform(0.1, 10, (len(ids), 1)).astype(np.float32)
    with EmbeddingWriter(tmp_path / "b", 8) as writer:
        writer.add(ids, matrix * lengths)
    first, again = (cluster(Embeddings.open(tmp_path / name), 9, iterations=30, seed=0) for name in "ab")
    np.testing.assert_array_equal(first.labels, again.labels)
    same = cluster(Embeddings.open(tmp_path / "a"), 9, iterations=30, seed=0)
    assert same.centroids.tobytes() == first.centroids.tobytes()
    other = cluster(Embeddings.open(tmp_path / "a"), 9, iterations=30, seed=4)
    assert (other.labels != first.labels).any()


@pytest.mark.parametrize("rows", [16_384, 7])
def test_balanced_clusters_are_of_nearly_one_size(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(10), [190, 95, 63, 48, 38, 32, 27, 24, 21, 62])
    matrix = rng.standard_normal((10, 8))[speaker] + 0.5 * rng.standard_normal((600, 8))
    with EmbeddingWriter(tmp_path, 8) as writer:
        writer.add([str(k) for k in range(600)], matrix.astype(np.float32))
    store = Embeddings.open(tmp_path)
    free, found = (cluster(store, 10, iterations=20, seed=0, balanced=balanced) for balanced in (False, True))
    assert free.counts.max() > 2 * free.counts.min()
    np.testing.assert_allclose(found.counts, 60, rtol=0.15)
    assert found.counts.tolist() == np.bincount(found.labels, minlength=10).tolist()
    assert found.cosine > free.cosine - 0.15


def test_offsets_are_those_of_the_plan_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)
    matrix, _, _ = write_embeddings(tmp_path)
    rng = np.random.default_rng(0)
    centroids = directions(rng.standard_normal((9, 8))).astype(np.float32)
    offsets = module._balance(Embeddings.open(tmp_path), centroids, np.zeros(9), 500, "cpu")
    plan = np.exp((directions(matrix) @ centroids.T.astype(np.float64) + offsets) / module._EPSILON)
    plan /= plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan.sum(axis=0), 72 / 9, rtol=0.011)
    first = module._balance(Embeddings.open(tmp_path), centroids, np.zeros(9), 3, "cpu")
    scores = torch.from_numpy(directions(matrix) @ centroids.T.astype(np.float64)) / module._EPSILON
    expected = sinkhorn(scores.log_softmax(dim=1), Layout((72,), 0), epsilon=1.0, iterations=3)
    found = (scores + torch.from_numpy(first) / module._EPSILON).softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_labels_are_up_to_date_when_the_iterations_end(tmp_path):
    matrix, _, _ = write_embeddings(tmp_path)
    found = cluster(Embeddings.open(tmp_path), 9, iterations=1, seed=0)
    assert found.iterations == 1
    assert found.labels.tolist() == (directions(matrix) @ found.centroids.T).argmax(axis=1).tolist()


def test_an_empty_cluster_begins_again_beside_the_largest():
    before = np.eye(3, 4, dtype=np.float32)
    sums = np.array([[2.0, 0, 0, 0], [0, 0, 0, 0], [0, 3.0, 4.0, 0]])
    centroids = module._directions(sums, np.array([2, 0, 6]), before, np.random.default_rng(0))
    np.testing.assert_allclose(centroids[[0, 2]], [[1, 0, 0, 0], [0, 0.6, 0.8, 0]], atol=1e-6)
    assert 0.999 < centroids[1] @ centroids[2] < 1
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert before.tolist() == np.eye(3, 4).tolist()


def test_doubles_fill_no_more_clusters_than_there_are(tmp_path):
    with EmbeddingWriter(tmp_path, 4) as writer:
        writer.add([str(k) for k in range(10)], np.repeat(np.eye(2, 4), 5, axis=0))
    found = cluster(Embeddings.open(tmp_path), 4, iterations=10, seed=0)
    assert found.counts.max() == 5
    assert found.counts.sum() == 10
    assert len(set(found.labels[:5].tolist())) == len(set(found.labels[5:].tolist())) == 1


def test_faults_are_named(tmp_path):
    write_embeddings(tmp_path / "a")
    for count in (1, 73):
        with pytest.raises(ValueError, match=f"72 utterances for {count} clusters; ask for 2 to 72"):
            cluster(Embeddings.open(tmp_path / "a"), count, iterations=5, seed=0)
    with EmbeddingWriter(tmp_path / "b", 3) as writer:
        writer.add(["x", "y", "z"], np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]]))
    with pytest.raises(ValueError, match="embedding of y is zero or not finite"):
        cluster(Embeddings.open(tmp_path / "b"), 2, iterations=5, seed=0)


def test_it_works_in_a_forked_worker(tmp_path):
    write_embeddings(tmp_path, speakers=200, each=20, dim=64)  # enough for a second thread
    store, before = Embeddings.open(tmp_path), torch.get_num_threads()
    torch.set_num_threads(2)
    cluster(store, 64, iterations=1, seed=0)  # starts the parent's threads
    child = multiprocessing.get_context("fork").Process(
        target=cluster, args=(store, 64), kwargs={"iterations": 1, "seed": 0}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any fork beside threads
        child.start()
    torch.set_num_threads(before)
    child.join(timeout=120)
    code = child.exitcode
    child.kill()
    child.join()
    assert code == 0


def test_directions_are_made_in_threads_whose_number_changes_nothing(tmp_path, monkeypatch):
    write_embeddings(tmp_path, speakers=40, each=20, dim=64)
    outcomes, threads = [], set()
    unit = Cosine.unit
    monkeypatch.setattr(Cosine, "unit", lambda self, points: threads.add(threading.get_ident()) or unit(self, points))
    for count in (1, 4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=count: set(range(count)), raising=False)
        threads.clear()
        found = cluster(Embeddings.open(tmp_path), 16, iterations=5, seed=0)
        outcomes.append((found.centroids.tobytes(), found.labels.tobytes(), found.cosine))
        assert threads - {threading.get_ident()}
    assert outcomes[0] == outcomes[1]
