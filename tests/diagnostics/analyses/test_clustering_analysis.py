"""Clusters of layers of rising quality: the silhouette ranks them as labels would; random labels score nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.analyses.clustering import Config, _agglomerative, run
from audiossl.diagnostics.finding import SkippedError
from audiossl.diagnostics.subject import Labels

LAYERS = 10


@pytest.fixture(scope="module")
def subject():
    """Layer after layer, classes stand further apart."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 5, 200)
    centres = rng.standard_normal((5, 8))
    layers = [
        (strength * centres[numbers] + rng.standard_normal((200, 8))).astype(np.float32)
        for strength in np.linspace(0.0, 4.0, LAYERS)
    ]
    chance = rng.integers(0, 5, 200)
    found = {
        "utt2word": Labels(np.arange(200), numbers, tuple("abcde")),
        "utt2chance": Labels(np.arange(200), chance, tuple("abcde")),
    }
    return SimpleNamespace(
        rows=np.arange(200), num_layers=LAYERS, seed=0, found=found,
        labels=lambda: found, points=lambda layer, rows: layers[layer][rows],
    )  # fmt: skip


def values(finding):
    return {measure: list(by_layer.values()) for (measure, _), by_layer in finding.by_measure().items()}


@pytest.mark.parametrize("method", ["k-means", "agglomerative"])
def test_silhouette_ranks_layers_as_labels_do(subject, method):
    finding = run(subject, Config(restarts=2))
    found = values(finding)
    assert found[f"AMI ({method}, word)"][-1] > 0.95
    assert found[f"ARI ({method}, word)"][-1] > 0.95
    assert abs(found[f"AMI ({method}, word)"][0]) < 0.1
    assert np.abs(found[f"AMI ({method}, chance)"]).max() < 0.1
    [spearman] = [
        number.value for number in finding.numbers if number.layer is None and f"({method}, word)" in number.measure
    ]
    assert spearman > 0.8


@pytest.mark.parametrize("method", ["affinity", "hdbscan"])
def test_methods_that_count_for_themselves(subject, method):
    found = values(run(subject, Config(methods=(method,))))
    assert set(found) >= {f"AMI ({method}, word)", f"clusters ({method}, word)", f"silhouette ({method}, word)"}
    assert not [name for name in found if "k-means" in name]
    assert found[f"AMI ({method}, word)"][-1] > 0.8
    assert 5 <= found[f"clusters ({method}, word)"][-1] <= 8
    assert abs(found[f"AMI ({method}, chance)"][-1]) < 0.1


def test_fewer_points_than_the_smallest_cluster(subject):
    few = SimpleNamespace(
        **{**vars(subject), "labels": lambda: {"utt2word": Labels(np.arange(4), np.array([0, 0, 1, 1]), tuple("ab"))}}
    )
    found = values(run(few, Config(methods=("k-means", "hdbscan"), restarts=1)))
    assert found["clusters (hdbscan, word)"] == [1.0] * LAYERS
    assert len(found["AMI (k-means, word)"]) == LAYERS


def test_agglomerative_clusters_are_as_many_as_asked_for():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)  # two merges at one height
    assert len(np.unique(_agglomerative(corners, 3, Config(), 0))) == 3
    assert _agglomerative(np.repeat(corners[:1], 4, axis=0), 3, Config(), 0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("wrong", [{"methods": ()}, {"damping": 0.4}, {"min_cluster": 1}])
def test_settings_of_methods(wrong):
    with pytest.raises(ValueError, match="methods must name one, damping must be"):
        Config(**wrong)


def test_without_labels_only_the_silhouette(subject):
    bare = SimpleNamespace(**{**vars(subject), "labels": dict})
    with pytest.raises(SkippedError, match=r"--clustering\.clusters K"):
        run(bare, Config())
    found = values(run(bare, Config(clusters=5, restarts=1)))
    assert set(found) == {"silhouette (k-means)", "silhouette (agglomerative)"}
    assert found["silhouette (k-means)"][-1] > found["silhouette (k-means)"][0]


def test_points_are_bounded_and_collapse_is_no_error(subject):
    still = SimpleNamespace(
        **{**vars(subject), "num_layers": 1, "points": lambda _, rows: np.ones((len(rows), 8), np.float32)}
    )
    finding = run(still, Config(max_points=50, restarts=1))
    assert "utt2word: 50 of 200 utterances" in finding.notes
    assert values(finding)["silhouette (agglomerative, word)"] == [0.0]
    with pytest.raises(ValueError, match="1 clusters"):
        Config(clusters=1)
