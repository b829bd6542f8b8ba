"""How far apart the classes of a label are: divergences between Gaussians, one for each class.

After Sarkar and Magimai.-Doss, "Can Self-Supervised Neural Representations Pre-Trained on Human Speech distinguish Animal Callers?" (2023), who compare callers
pair by pair. Principal components, the ridge and the control with shuffled labels are our variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.diagnostics.pca import principal_components
from audiossl.diagnostics.subject import spoken
from audiossl.metrics.gaussian_bhattacharyya import gaussian_bhattacharyya
from audiossl.metrics.gaussian_kullback_leibler import gaussian_kullback_leibler

if TYPE_CHECKING:
    from audiossl.diagnostics.subject import Subject

TITLE = "Distance of classes"
_MEASURES = {"Kullback-Leibler divergence": gaussian_kullback_leibler, "Bhattacharyya distance": gaussian_bhattacharyya}


@dataclass(frozen=True)
class Config:
    """How Gaussians are estimated.

    components: principal components of the embeddings in which they are; classes of fewer than two utterances more are left out. ridge: share of the mean
    variance that is added to each variance.
    """

    components: int = 10
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if self.components < 1 or self.ridge < 0:
            raise ValueError(
                f"separability: {self.components} components, ridge {self.ridge}; give at least 1, and 0 or more"
            )


def run(subject: Subject, config: Config) -> Finding:
    """Mean and least divergence of the pairs of classes of every column, by layer, and the mean where labels are shuffled."""
    finding = Finding()
    columns = subject.labels(config.components + 2)
    if not columns:
        raise SkippedError(
            f"no column has two classes of {config.components + 2} utterances; give more, or --separability.components K"
        )
    for column, labels in columns.items():
        shuffled = np.random.default_rng(subject.seed).permutation(labels.numbers)
        layers = [_reduced(subject.points(layer, labels.rows), config) for layer in range(subject.num_layers)]
        name = spoken(column)
        curves: dict[str, list[float]] = {}
        for measure, function in _MEASURES.items():
            pairs, control = (
                np.array([_of_pairs(function(*_gaussians(points, numbers, config))) for points in layers])
                for numbers in (labels.numbers, shuffled)
            )
            finding.add_layers(f"{measure} ({name})", pairs.mean(axis=1), classes=len(labels.names))
            finding.add_layers(f"{measure}, nearest pair ({name})", pairs.min(axis=1))
            finding.add_layers(f"{measure}, shuffled labels ({name})", control.mean(axis=1))
            curves |= {measure: pairs.mean(axis=1).tolist(), f"{measure}, shuffled": control.mean(axis=1).tolist()}
        finding.picture(
            lambda figure, curves=curves: draw_layers(figure, curves, "nats"),  # type: ignore[misc]
            f"{len(labels.names)} classes of {name}",
        )
    return finding


def _reduced(points: np.ndarray, config: Config) -> np.ndarray:
    """(point, component) float64, of variance 1 in the mean; neither divergence depends on that."""
    reduced, _ = principal_components(points, config.components)
    scale = float(np.sqrt(reduced.var(axis=0).mean()))
    return reduced / scale if scale else reduced


def _gaussians(points: np.ndarray, numbers: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of each class: (class, component), (class, component, component)."""
    classes = [points[numbers == number] for number in np.unique(numbers)]
    ridge = (config.ridge if points.any() else 1.0) * np.eye(points.shape[1])  # a collapsed layer has no distances
    covariances = [np.atleast_2d(np.cov(members, rowvar=False)) + ridge for members in classes]
    return np.stack([members.mean(axis=0) for members in classes]), np.stack(covariances)


def _of_pairs(matrix: np.ndarray) -> np.ndarray:
    """Values of all ordered pairs: (pair,)."""
    return matrix[~np.eye(len(matrix), dtype=np.bool_)]
