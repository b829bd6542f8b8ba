"""Alignment and uniformity of each layer: how near two views of an utterance lie, how evenly utterances spread (Wang and Isola, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.metrics.alignment import alignment
from audiossl.metrics.uniformity import uniformity

if TYPE_CHECKING:
    from audiossl.diagnostics.subject import Subject

TITLE = "Alignment and uniformity"
TAKES = ("views",)


@dataclass(frozen=True)
class Config:
    """power, t: of the two measures. centre: take the mean away first, which layers with a large one need to be told apart; our variant."""

    power: float = 2.0
    t: float = 2.0
    centre: bool = False

    def __post_init__(self) -> None:
        if self.power <= 0 or self.t <= 0:
            raise ValueError(f"alignment: power {self.power:g} and t {self.t:g} must be above 0")


def run(subject: Subject, config: Config) -> Finding:
    """Positive pairs are two views of an utterance, made as `--views.KEY` says; uniformity is that of the first views."""
    features, rows = subject.views(subject.source, 2)
    if len(rows) < 2:
        raise SkippedError(f"{len(rows)} utterances have both views; give at least two")
    near, even = [], []
    for layer in range(subject.num_layers):
        first, second = (np.asarray(features[rows, view, layer], dtype=np.float64) for view in range(2))
        if config.centre:
            first, second = first - first.mean(axis=0), second - second.mean(axis=0)
        near.append(alignment(first, second, power=config.power))
        even.append(uniformity(first, t=config.t))
    finding = Finding()
    finding.add_layers("alignment", near)
    finding.add_layers("uniformity", even)
    curves = {"alignment (0 is best)": near, "uniformity (low is best)": even}
    finding.picture(lambda figure: draw_layers(figure, curves, "loss"), "Alignment and uniformity of pooled embeddings")
    return finding
