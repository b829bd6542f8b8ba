"""How many dimensions each layer uses: singular values, RankMe and effective rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.diagnostics.finding import Finding
from audiossl.diagnostics.layer_figures import draw_layers, draw_spectra
from audiossl.metrics.effective_rank import effective_rank

if TYPE_CHECKING:
    from audiossl.diagnostics.subject import Subject

TITLE = "Effective rank"
_RANKME_EPSILON = 1e-7  # Garrido et al. (2023), section 3


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def run(subject: Subject, config: Config) -> Finding:  # noqa: ARG001 - as all analyses are called
    """Three numbers per layer.

    RankMe: of the embeddings as they are, a large common mean being one direction. Effective rank: of the centred ones (our variant of
    Roy and Vetterli). Participation ratio: what training logs as `effective_rank`, here of time-means.
    """
    import torch

    from audiossl.nn.spread import spread

    finding = Finding()
    spectra, rank_me, rank, participation = [], [], [], []
    for layer in range(subject.num_layers):
        points = subject.points(layer).astype(np.float64)
        rank_me.append(effective_rank(singular_values(points), epsilon=_RANKME_EPSILON))
        spectra.append(singular_values(points - points.mean(axis=0)))
        rank.append(effective_rank(spectra[-1]))
        total, count = spread(torch.from_numpy(points))["effective_rank"]
        participation.append(float(total / count))
    finding.add_layers("RankMe", rank_me)
    finding.add_layers("effective rank", rank)
    finding.add_layers("participation ratio", participation)
    finding.notes.append(
        f"no rank exceeds {min(points.shape)}: {points.shape[0]} utterances, {points.shape[1]} dimensions"
    )
    curves = {"RankMe": rank_me, "effective rank, centred": rank, "participation ratio": participation}
    finding.picture(lambda figure: draw_layers(figure, curves, "dimensions"), "Dimensions in use")
    finding.picture(lambda figure: draw_spectra(figure, spectra), "Singular values of the centred embeddings")
    return finding


def singular_values(points: np.ndarray) -> np.ndarray:
    """(value,) float64, largest first. points: (point, dim)."""
    values: np.ndarray = np.linalg.svd(points, compute_uv=False)
    # Rounding leaves a tail of about 1e-16 of the largest, which is nothing.
    return np.where(values > values[0] * max(points.shape) * np.finfo(np.float64).eps, values, 0.0)
