"""Clusters of an unseen set that no label had a part in: how well they agree with labels, and how well they stand apart.

After Lowe et al., "An Empirical Study into Clustering of Unseen Datasets with Self-Supervised Encoders" (2024): embeddings reduced, clustered with
the number of classes known, scored by adjusted mutual information; the silhouette in the reduced space needs no label. Components and
restarts are our variant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.diagnostics.pca import principal_components
from audiossl.diagnostics.subject import Labels, Subject, spoken
from audiossl.metrics._contingency import contingency
from audiossl.metrics.adjusted_mutual_information import adjusted_mutual_information
from audiossl.metrics.adjusted_rand_index import adjusted_rand_index
from audiossl.metrics.silhouette import silhouette

TITLE = "Clusters of unseen data"


@dataclass(frozen=True)
class Config:
    """How embeddings are reduced and clustered.

    components: principal components that are kept; 0 keeps all dimensions. clusters: how many; 0: as many as there are classes. restarts,
    iterations: of k-means. max_points: utterances, for agglomerative clustering holds all pairs.
    """

    components: int = 50
    clusters: int = 0
    restarts: int = 10
    iterations: int = 100
    max_points: int = 5000

    def __post_init__(self) -> None:
        if self.components < 0 or self.clusters < 0 or self.clusters == 1:
            raise ValueError(
                f"clustering: {self.components} components, {self.clusters} clusters; give 0, or 2 and more"
            )
        if min(self.restarts, self.iterations) < 1 or self.max_points < 3:
            raise ValueError("clustering: restarts and iterations must be at least 1, max_points at least 3")


def run(subject: Subject, config: Config) -> Finding:
    """k-means and agglomerative clusters of each layer, against every column with classes."""
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
            layers = [_reduced(subject.points(layer, rows), config) for layer in range(subject.num_layers)]
            _add_column(finding, spoken(column), layers, numbers, clusters, config, subject.seed)
        else:
            finding.notes.append(f"{column}: {len(rows)} utterances cannot make {clusters} clusters")
    if not finding.numbers:
        raise SkippedError("; ".join(finding.notes))
    return finding


def _add_column(
    finding: Finding, name: str, layers: list[np.ndarray], numbers: np.ndarray, clusters: int, config: Config, seed: int
) -> None:
    """Cluster every layer by both methods and add the scores. layers: (point, component) each; name: of the labels, "" for none."""
    curves: dict[str, list[float]] = {}
    for method, cluster in (("k-means", _kmeans), ("agglomerative", _agglomerative)):
        found = [cluster(points, clusters, config, seed) for points in layers]
        apart = [_silhouette(points, by) for points, by in zip(layers, found, strict=True)]
        tag = f"{method}, {name}" if name else method
        finding.add_layers(f"silhouette ({tag})", apart, clusters=clusters)
        curves[f"silhouette, {method}"] = apart
        if name:
            curves[f"AMI, {method}"] = _against_labels(finding, tag, numbers, found, apart)
    caption = f"{clusters} clusters" + (f" against {name}" if name else "")
    finding.picture(lambda figure: draw_layers(figure, curves, "score"), caption)


def _against_labels(
    finding: Finding, tag: str, numbers: np.ndarray, found: list[np.ndarray], apart: list[float]
) -> list[float]:
    """Add AMI and ARI of each layer, and how well the silhouette would have ranked the layers; returns the AMI."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    tables = [contingency(numbers, by, num_phones=numbers.max() + 1, num_units=by.max() + 1) for by in found]
    information = [adjusted_mutual_information(table) for table in tables]
    finding.add_layers(f"AMI ({tag})", information)
    finding.add_layers(f"ARI ({tag})", [adjusted_rand_index(table) for table in tables])
    if len(apart) > 2 and np.ptp(apart) > 0 and np.ptp(information) > 0:
        rank = float(spearmanr(apart, information).statistic)
        finding.add(f"Spearman of silhouette and AMI over layers ({tag})", rank, layers=len(apart))
    return information


def _some(count: int, most: int, seed: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _reduced(points: np.ndarray, config: Config) -> np.ndarray:
    """(point, component) float32."""
    reduced, _ = principal_components(points, config.components or points.shape[1])
    return np.ascontiguousarray(reduced, dtype=np.float32)


def _kmeans(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:
    import torch

    from audiossl.units.kmeans import NearestCentroid, kmeans

    found = kmeans(points, clusters, iterations=config.iterations, redo=config.restarts, seed=seed)
    labels: np.ndarray = NearestCentroid(found.centroids)(torch.from_numpy(points)).numpy()
    return labels


def _agglomerative(points: np.ndarray, clusters: int, config: Config, seed: int) -> np.ndarray:  # noqa: ARG001 - as k-means
    """Merge what raises the variance within clusters least (Ward, 1963)."""
    from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]

    labels: np.ndarray = fcluster(linkage(points.astype(np.float64), "ward"), clusters, "maxclust") - 1
    return labels


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """0 where a collapsed layer leaves a single cluster."""
    return silhouette(points, labels) if len(np.unique(labels)) > 1 else 0.0
