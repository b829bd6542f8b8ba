"""Clusters stay apart in two dimensions; UMAP is asked for what it is given, and named where it is missing."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.analyses import clustering, scatter
from audiossl.diagnostics.pca import principal_components
from audiossl.diagnostics.reduction import reduced


def clusters(count=40, dim=20):
    """Three of them, far apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return (8 * rng.standard_normal((3, dim))[labels] + rng.standard_normal((count, dim))).astype(np.float32), labels


def purity_of_neighbours(points, labels):
    gaps = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(len(points), np.inf))
    return np.mean(labels[gaps.argmin(axis=1)] == labels)


def test_principal_components_in_float32():
    points, _ = clusters()
    np.testing.assert_allclose(reduced(points, 5, "pca", 0), principal_components(points, 5)[0], rtol=1e-5, atol=1e-5)


def test_tsne_keeps_neighbours_and_repeats():
    points, labels = clusters()
    flat = reduced(points, 2, "tsne", 0)
    assert (flat.shape, flat.dtype) == ((40, 2), np.float32)
    assert purity_of_neighbours(flat, labels) > 0.95
    np.testing.assert_array_equal(flat, reduced(points, 2, "tsne", 0))
    assert not np.array_equal(flat, reduced(points, 2, "tsne", 1))
    assert reduced(points[:3], 2, "tsne", 0).shape == (3, 2)


def test_umap_keeps_neighbours():
    pytest.importorskip("umap", reason="UMAP is the package umap-learn")
    points, labels = clusters(60)
    flat = reduced(points, 5, "umap", 0)
    assert (flat.shape, flat.dtype) == ((60, 5), np.float32)
    assert purity_of_neighbours(flat, labels) > 0.95


def test_what_umap_is_asked_for(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, points):
            return points[:, : asked["n_components"]]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    points, _ = clusters(200, 60)
    assert reduced(points, 50, "umap", 7).shape == (200, 50)
    assert asked == {"n_components": 50, "n_neighbors": 30, "min_dist": 0.0, "random_state": 7, "n_jobs": 1}
    reduced(points[:10], 50, "umap", 7)
    assert (asked["n_components"], asked["n_neighbors"]) == (8, 9)


def test_a_missing_package_is_named_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"umap: the package is not installed; pip install umap-learn, or take pca$"
    with pytest.raises(ValueError, match=rf"^clustering\.reduction {said}"):
        clustering.Config(reduction="umap")
    with pytest.raises(ValueError, match=rf"^scatter\.method {said}"):
        scatter.Config(method="umap")
    with pytest.raises(ValueError, match=r"clustering\.components: 0 for umap; give at least 2"):
        clustering.Config(reduction="umap", components=0)


def test_clusters_in_umap_say_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(clustering, "reduced", lambda points, components, method, seed: points[:, :components])
    points, labels = clusters()
    found = clustering.Labels(np.arange(40), labels, tuple("abc"))
    subject = SimpleNamespace(
        rows=np.arange(40), num_layers=1, seed=0, labels=lambda: {"utt2word": found}, points=lambda layer, rows: points[rows]
    )  # fmt: skip
    finding = clustering.run(subject, clustering.Config(reduction="umap", methods=("k-means",)))
    assert "AMI (k-means in UMAP, word)" in {number.measure for number in finding.numbers}
