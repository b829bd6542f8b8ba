"""Clusters of an unseen set that no label had a part in: how well they agree with labels, and how well they stand apart.

After Lowe et al., "An Empirical Study into Clustering of Unseen Datasets with Self-Supervised Encoders" (2024): embeddings reduced, clustered with
the number of classes known, scored by adjusted mutual information; the silhouette in the reduced space needs no label. Affinity propagation and HDBSCAN find
their number themselves. Components of dimensions that keep their spread (the published toolkit standardises them by default), restarts, and that all noise is
one cluster are our variant.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.diagnostics.reduction import reduced, require
from audiossl.diagnostics.subject import Labels, Subject, spoken

TITLE = "Clusters of unseen data"
Method = Literal["k-means", "agglomerative", "affinity", "hdbscan"]


@dataclass(frozen=True)
class Config:
    """How embeddings are reduced and clustered.

    methods: which. reduction: principal components, or UMAP as in the publication, which needs the package umap-learn. components: dimensions that are kept; 0 keeps
    all, of principal components alone. clusters: how many; 0: as many as there are classes. restarts,
    iterations: of k-means. damping: of affinity propagation. min_cluster: utterances, of HDBSCAN. max_points: utterances, for all but k-means hold all pairs.
    """

    methods: tuple[Method, ...] = ("k-means", "agglomerative")
    reduction: Literal["pca", "umap"] = "pca"
    components: int = 50
    clusters: int = 0
    restarts: int = 10
    iterations: int = 100
    damping: float = 0.9
    min_cluster: int = 5
    max_points: int = 5000

    def __post_init__(self) -> None:
        if self.components < 0 or self.clusters < 0 or self.clusters == 1:
            raise ValueError(
                f"clustering: {self.components} components, {self.clusters} clusters; give 0, or 2 and more"
            )
        if self.reduction == "umap" and self.components < 2:
            raise ValueError(f"clustering.components: {self.components} for umap; give at least 2, such as 50")
        require(self.reduction, "clustering.reduction")
        if min(self.restarts, self.iterations) < 1 or self.max_points < 3:
            raise ValueError("clustering: restarts and iterations must be at least 1, max_points at least 3")
        if not self.methods or not 0.5 <= self.damping < 1 or self.min_cluster < 2:
            raise ValueError(
                "clustering: methods must name one, damping must be from 0.5 to below 1, min_cluster at least 2"
            )


def run(subject: Subject, config: Config) -> Finding:
    """Clusters of each layer by every method, against every column with classes."""
    finding = Finding()
    columns = subject.labels()
    if not columns:
        if not config.clusters:
            raise SkippedError("no column has classes; give --clustering.clusters K for silhouettes alone")
        columns = {"": Labels(subject.rows, np.full(len(subject.rows), -1), ())}
    for column, labels in columns.items():
        chosen = _some(len(labels.rows), config.max_points, subject.seed)
        if len(chosen) < len(labels.rows):
            finding.notes.append(f"{column}: {len(chosen)} of {len(labels.rows)} utterances")
        rows, numbers = labels.rows[chosen], labels.numbers[chosen]
        clusters = config.clusters or len(np.unique(numbers))
        if 2 <= clusters < len(rows):
            layers = [
                _reduced(subject.points(layer, rows), config, subject.seed) for layer in range(subject.num_layers)
            ]
            _add_column(finding, spoken(column), layers, numbers, clusters, config, subject.seed)
        else:
            finding.notes.append(f"{column}: {len(rows)} utterances cannot make {clusters} clusters")
    if not finding.numbers:
        raise SkippedError("; ".join(finding.notes))
    return finding


def _add_column(
    finding: Finding, name: str, layers: list[np.ndarray], numbers: np.ndarray, clusters: int, config: Config, seed: int
) -> None:
    """Cluster every layer by every method and add the scores. layers: (point, component) each; name: of the labels, "" for none."""
    curves: dict[str, list[float]] = {}
    for method in config.methods:
        found = [_METHODS[method](points, clusters, config, seed) for points in layers]
        apart = [_silhouette(points, by) for points, by in zip(layers, found, strict=True)]
        told = method if config.reduction == "pca" else f"{method} in UMAP"
        tag = f"{told}, {name}" if name else told
        if method not in _COUNTING:
            finding.add_layers(f"silhouette ({tag})", apart, clusters=clusters)
        else:
            finding.add_layers(f"silhouette ({tag})", apart)
            finding.add_layers(f"clusters ({tag})", [len(np.unique(by)) for by in found])
        curves[f"silhouette, {told}"] = apart
        if name:
            curves[f"AMI, {told}"] = _against_labels(finding, tag, numbers, found, apart)
    caption = f"{clusters} clusters" + (f" against {name}" if name else "")
    finding.picture(lambda figure: draw_layers(figure, curves, "score"), caption)


def _against_labels(
    finding: Finding, tag: str, numbers: np.ndarray, found: list[np.ndarray], apart: list[float]
) -> list[float]:
    """Add AMI and ARI of each layer, and how well the silhouette would have ranked the layers; returns the AMI."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    information = [float(adjusted_mutual_info_score(numbers, by)) for by in found]
    finding.add_layers(f"AMI ({tag})", information)
    finding.add_layers(f"ARI ({tag})", [float(adjusted_rand_score(numbers, by)) for by in found])
    if len(apart) > 2 and np.ptp(apart) > 0 and np.ptp(information) > 0:
        rank = float(spearmanr(apart, information).statistic)
        finding.add(f"Spearman of silhouette and AMI over layers ({tag})", rank, layers=len(apart))
    return information


def _some(count: int, most: int, seed: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _reduced(points: np.ndarray, config: Config, seed: int) -> np.ndarray:
    """(point, component) float32."""
    return reduced(points, config.components or points.shape[1], config.reduction, seed)


def _kmeans(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:
    import torch

    from audiossl.units.kmeans import NearestCentroid, kmeans

    found = kmeans(points, clusters, iterations=config.iterations, redo=config.restarts, seed=seed)
    labels: np.ndarray = NearestCentroid(found.centroids)(torch.from_numpy(points)).numpy()
    return labels


def _agglomerative(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:  # noqa: ARG001 - as k-means
    """Merge what raises the variance within clusters least (Ward, 1963); equal points stay together, though clusters be fewer."""
    from scipy.cluster.hierarchy import cut_tree, linkage  # type: ignore[import-untyped]

    merges = linkage(points.astype(np.float64), "ward")
    distinct = 1 + np.count_nonzero(merges[:, 2])
    labels: np.ndarray = cut_tree(merges, min(clusters, distinct))[:, 0]
    return labels


def _affinity(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:  # noqa: ARG001 - as k-means
    """Exemplars by messages between points (Frey and Dueck, 2007); where it does not settle all are one cluster."""
    from sklearn.cluster import AffinityPropagation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not settle is seen by the single cluster
        labels: np.ndarray = AffinityPropagation(damping=config.damping, random_state=seed).fit(points).labels_
    return np.asarray(labels - labels.min())


def _hdbscan(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:  # noqa: ARG001 - as k-means
    """Clusters of lasting density (Campello et al., 2013); what is in none, noise, is one more."""
    from sklearn.cluster import HDBSCAN

    nearest = min(config.min_cluster, len(points))  # with its default, the first, it fails on fewer points
    found = HDBSCAN(min_cluster_size=config.min_cluster, min_samples=nearest, copy=True)
    labels: np.ndarray = found.fit(points).labels_
    return np.asarray(labels - labels.min())


_METHODS = {"k-means": _kmeans, "agglomerative": _agglomerative, "affinity": _affinity, "hdbscan": _hdbscan}
_COUNTING = ("affinity", "hdbscan")


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """0 where a collapsed layer leaves a single cluster, or where each point is one."""
    from sklearn.metrics import silhouette_score

    apart = 1 < len(np.unique(labels)) < len(points)
    return float(silhouette_score(points.astype(np.float64), labels)) if apart else 0.0
