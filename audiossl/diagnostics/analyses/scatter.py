"""A few layers in two dimensions, coloured by label: principal components, t-SNE or UMAP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from audiossl.diagnostics.finding import Finding
from audiossl.diagnostics.layer_figures import draw_scatter
from audiossl.diagnostics.pca import principal_components
from audiossl.diagnostics.reduction import Reduction, reduced, require
from audiossl.diagnostics.subject import Subject, spoken

TITLE = "Two dimensions"


@dataclass(frozen=True)
class Config:
    """method: principal components, t-SNE, or UMAP, which needs the package umap-learn. max_points: drawn in each panel."""

    method: Reduction = "pca"
    max_points: int = 2000

    def __post_init__(self) -> None:
        if self.max_points < 2:
            raise ValueError(f"scatter.max_points is {self.max_points}; give at least 2")
        require(self.method, "scatter.method")


def run(subject: Subject, config: Config) -> Finding:
    """One picture per column with classes, or one without colours; layers: the first, the middle one and the one shown."""
    finding = Finding()
    layers = sorted({0, subject.num_layers // 2, subject.shown_layer})
    rows = subject.rows[
        np.linspace(0, len(subject.rows) - 1, min(config.max_points, len(subject.rows))).astype(np.int64)
    ]
    panels = {}
    for layer in layers:
        points = subject.points(layer, rows)
        title = f"layer {layer}: {config.method}"
        if config.method == "pca":
            title = f"layer {layer}: {100 * principal_components(points, 2)[1].sum():.0f} % of the variance"
        flat = reduced(points, 2, config.method, subject.seed)
        panels[title] = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    columns = subject.labels()
    if not columns:
        nothing = np.full(len(rows), -1)
        finding.picture(lambda figure: draw_scatter(figure, panels, nothing, ()), "No column has classes")
    for column, labels in columns.items():
        numbers = np.full(len(subject.manifest), -1)
        numbers[labels.rows] = labels.numbers
        draw = partial(draw_scatter, panels=panels, labels=numbers[rows], names=labels.names)
        finding.picture(draw, f"The commonest of {len(labels.names)} classes of {spoken(column)}")
    return finding
