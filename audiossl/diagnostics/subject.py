"""What is diagnosed: a source of features on a sample of a data directory, with whatever is there to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from audiossl.diagnostics.finding import SkippedError
from audiossl.diagnostics.linear_probe import ProbeConfig, Split
from audiossl.diagnostics.pooled_cache import pooled_features
from audiossl.diagnostics.probing import stratified
from audiossl.diagnostics.views import ViewConfig, Views

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.pooled_cache import CacheConfig, PooledFeatures
    from audiossl.diagnostics.sources import FeatureSource

_NO_LABEL = {"utt2dur"}
_UNLABELLED = ""


@dataclass(frozen=True)
class Labels:
    """What a column says. rows: (item,) rows of the features that have a class; numbers: (item,) their classes; names: of the classes."""

    rows: np.ndarray
    numbers: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A source of features and the data that it is looked at with.

    ValueError for a layer that is not there and for two checkpoints that are one.

    source, against: the checkpoint, and the one that memorisation compares it with. manifest: what is looked at, already a sample. train: a
    sample of what the encoder was trained on. columns: those asked for; () means all that hold classes. shares: of train, dev
    and test in probes. layer: the one that is shown where there is room for one.
    """

    source: FeatureSource
    manifest: Manifest
    out: Path
    cache: Path
    reading: CacheConfig
    log: Callable[[str], None]
    columns: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    probe: ProbeConfig = ProbeConfig()  # noqa: RUF009 - frozen
    view: ViewConfig = ViewConfig()  # noqa: RUF009 - frozen
    against: FeatureSource | None = None
    train: Manifest | None = None
    layer: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.checked_layer(self.source, self.layer)
        if self.against is not None:
            self.checked_layer(self.against, self.layer)
            if self.against.digest == self.source.digest:
                raise ValueError(
                    f"--against {self.against.name}: has the same weights; give a checkpoint trained without the data"
                )

    @cached_property
    def pooled(self) -> PooledFeatures:
        """Time-means of every layer, from one pass or from the cache."""
        return self.pool(self.source, self.manifest)

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the pooled features that could be used; SkippedError where there are fewer than two."""
        rows = np.flatnonzero(self.pooled.usable)
        if len(rows) < 2:
            raise SkippedError(f"{self.manifest.path}: has {len(rows)} usable utterances; give at least two")
        return rows

    def pool(self, source: FeatureSource, manifest: Manifest) -> PooledFeatures:
        """Time-means of every layer of any source on any data."""
        return pooled_features(manifest, source, self.cache, config=self.reading, log=self.log)

    def views(self, source: FeatureSource, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Time-means of views: (utterance, view, layer, dim), memory-mapped, and the rows of which no view is missing.

        SkippedError for an encoder of units.
        """
        if source.reads is not None:
            raise SkippedError(f"{source.name}: reads {source.reads.column}, and views are of recordings")
        views = Views(self.manifest, self.view, draws, self.seed)
        pooled = self.pool(source, cast("Manifest", views))
        features = pooled.features.reshape(len(self.manifest), draws, source.num_layers, source.dim)
        return features, np.flatnonzero(pooled.usable.reshape(-1, draws).all(axis=1))

    def points(self, layer: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Embeddings of one layer: (row, dim) float32, of all usable utterances or of some rows."""
        return np.ascontiguousarray(self.pooled.features[self.rows if rows is None else rows, layer])

    @property
    def num_layers(self) -> int:
        """Tensors that the source gives, the input of the first block among them."""
        return self.source.num_layers

    @property
    def shown_layer(self) -> int:
        """The layer asked for, else the last."""
        return self.checked_layer(self.source, self.layer)

    def checked_layer(self, source: FeatureSource, layer: int | None) -> int:
        """Return `layer`, the last for None; ValueError where a source does not have it."""
        chosen = source.num_layers - 1 if layer is None else layer
        if not 0 <= chosen < source.num_layers:
            raise ValueError(
                f"layer {chosen}: {source.name} has layers 0 to {source.num_layers - 1}; choose one of them"
            )
        return chosen

    def labels(self, smallest: int = 2) -> dict[str, Labels]:
        """Classes by column: those with at least `smallest` usable utterances; columns that are left with fewer than two are not there."""
        found = {}
        for column in self.columns or self._label_columns():
            labels = self.labels_of(self.manifest, column, self.rows, smallest)
            if len(labels.names) > 1:
                found[column] = labels
        return found

    def labels_of(self, manifest: Manifest, column: str, rows: np.ndarray, smallest: int = 1) -> Labels:
        """Classes of some utterances of a manifest; what has no line in the file, or an empty one, has no class."""
        values = manifest.column(column)
        texts = [values[row].strip() if values.has(row) else _UNLABELLED for row in rows.tolist()]
        names, numbers, counts = np.unique(texts, return_inverse=True, return_counts=True)
        large = (counts >= smallest) & (names != _UNLABELLED)
        kept = large[numbers]
        renumbered = np.cumsum(large) - 1
        return Labels(rows[kept], renumbered[numbers[kept]], tuple(map(str, names[large])))

    def split(self, features: np.ndarray, labels: Labels) -> tuple[list[Split], tuple[str, ...]] | None:
        """Split into train, dev and test, alike in every class; classes too small to be in all three are left out, None if too few stay."""
        parts = stratified(labels.numbers, self.shares, seed=self.seed)
        counts = np.zeros((3, len(labels.names)), dtype=np.int64)
        np.add.at(counts, (parts, labels.numbers), 1)
        whole = counts.min(axis=0) > 0
        if whole.sum() < 2:
            return None
        kept = whole[labels.numbers]
        number = (np.cumsum(whole) - 1)[labels.numbers]
        splits = [Split(features, labels.rows[kept & (parts == p)], number[kept & (parts == p)]) for p in range(3)]
        return splits, tuple(name for name, stays in zip(labels.names, whole, strict=True) if stays)

    def _label_columns(self) -> list[str]:
        names = self.manifest.column_names()
        return [name for name in names if name.startswith("utt2") and name not in _NO_LABEL]


def sample(manifest: Manifest, most: int, seed: int) -> Manifest:
    """Return at most `most` utterances of a manifest, drawn at random, in their order."""
    if len(manifest) <= most:
        return manifest
    chosen = np.random.default_rng(seed).choice(len(manifest), most, replace=False)
    return manifest.subset(np.sort(chosen))


def spoken(column: str) -> str:
    """What a column is called in results: `spk` for `utt2spk`."""
    return column.removeprefix("utt2")
