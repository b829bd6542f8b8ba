"""What one encoder remembers and another does not: SSLMem of each utterance (Wang et al., 2024, "Memorization in SSL ...").

m(x) = E|g(x) - g(view of x)| - E|f(x) - f(view of x)|, on representations of length 1, over draws of views, divided by the range over all
utterances. f is the checkpoint, trained with x; g is the other one, of the same recipe, trained without it. Above 0: f keeps views of x
together where g does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.kaldi import write_table
from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_histogram
from audiossl.files import whole_file
from audiossl.metrics._sphere import on_sphere

if TYPE_CHECKING:
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.diagnostics.subject import Subject

TITLE = "Memorisation"
TAKES = ("views", "against")
SCORES, RANKING = "utt2mem", "most_memorised.txt"
_CHUNK = 1024


@dataclass(frozen=True)
class Config:
    """draws: views of each utterance; 5 in the published code. groups: column that says which part of the data an utterance belongs to."""

    draws: int = 5
    groups: str = ""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"memorisation.draws is {self.draws}; give at least 1")


def check(subject: Subject, config: Config) -> None:
    """ValueError where the column of groups is not there."""
    if config.groups:
        subject.manifest.column(config.groups)


def run(subject: Subject, config: Config) -> Finding:
    """Score every utterance; writes `utt2mem`, and the list from the most memorised down."""
    if subject.against is None:
        raise SkippedError("no other checkpoint to compare with; give it as --against OTHER")
    means = [_distances(subject, source, config.draws) for source in (subject.source, subject.against)]
    rows = np.flatnonzero(np.isfinite(means[0]) & np.isfinite(means[1]))
    if len(rows) < 2:
        raise SkippedError(f"{len(rows)} utterances could be used; give at least two")
    scores = memorisation(means[0][rows], means[1][rows])
    ids = [subject.manifest.ids[row] for row in rows.tolist()]
    _write(subject, ids, scores)
    finding = Finding(
        notes=[f"{SCORES} and {RANKING} in {subject.out}: {len(ids)} utterances, {config.draws} views of each"]
    )
    groups = {"all": scores}
    if config.groups:
        labels = subject.labels_of(subject.manifest, config.groups, rows)
        of_row = dict(zip(rows.tolist(), scores, strict=True))
        of_label = np.array([of_row[row] for row in labels.rows.tolist()])
        groups = {name: of_label[labels.numbers == number] for number, name in enumerate(labels.names)} or groups
    for name, values in groups.items():
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        finding.add(
            f"memorisation ({name})",
            values.mean(),
            standard_error=error,
            utterances=len(values),
            against=subject.against.name,
            layer=subject.shown_layer,
        )
    finding.picture(lambda figure: draw_histogram(figure, groups, "memorisation"), "Memorisation of utterances")
    top = np.argsort(-scores, kind="stable")[:20]
    finding.table(["most memorised", "score"], [[ids[place], f"{scores[place]:.3f}"] for place in top.tolist()])
    return finding


def memorisation(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(g's mean distance - f's) / (largest - smallest): (utterance,) in [-1, 1], all 0 where they do not differ.

    own, other: (utterance,), mean distance to their views under f and under g. Where all differences have one sign, the paper's quotient leaves [-1, 1]:
    0 then counts among them (our choice).
    """
    difference = other - own
    span = max(difference.max(), 0.0) - min(difference.min(), 0.0)
    return difference / span if span > 0 else np.zeros_like(difference)


def view_distances(anchors: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Mean over views of |x - view|, all of length 1: (utterance,). anchors: (utterance, dim); views: (utterance, view, dim)."""
    unit = on_sphere(views.reshape(-1, views.shape[-1])).reshape(views.shape)
    return np.asarray(np.linalg.norm(on_sphere(anchors)[:, None] - unit, axis=-1).mean(axis=1))


def _distances(subject: Subject, source: FeatureSource, draws: int) -> np.ndarray:
    """Distances of every utterance of the manifest, nan where it or a view could not be used."""
    layer = subject.checked_layer(source, subject.layer)
    pooled = subject.pooled if source is subject.source else subject.pool(source, subject.manifest)
    views, rows = subject.views(source, draws)
    rows = rows[pooled.usable[rows]]
    found = np.full(len(subject.manifest), np.nan)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        found[part] = view_distances(pooled.features[part, layer], views[part, :, layer])
    return found


def _write(subject: Subject, ids: list[str], scores: np.ndarray) -> None:
    written = [f"{score:.6f}" for score in scores]
    write_table(subject.out / SCORES, zip(ids, written, strict=True))
    ranked = np.argsort(-scores, kind="stable")
    with whole_file(subject.out / RANKING) as partial:
        partial.write_text("".join(f"{ids[place]} {written[place]}\n" for place in ranked.tolist()), encoding="utf-8")
