"""Train, dev and test of a benchmark: three directories, or one whose parts are left out in turn; and the pooled features of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from audiossl.data.manifest import Manifest
from audiossl.diagnostics.linear_probe import Split
from audiossl.diagnostics.pooled_cache import pooled_features
from audiossl.diagnostics.probing import read_labels
from audiossl.superb.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from audiossl.diagnostics.pooled_cache import CacheConfig, PooledFeatures
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.train.ledger import Ledger


class Part(NamedTuple):
    """Some utterances of a data directory."""

    manifest: Manifest
    rows: np.ndarray

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of some of them, by their rows in the directory."""
        return [self.manifest.ids[row] for row in rows.tolist()]


class Fold(NamedTuple):
    """What a head is trained, chosen and tested on. name: of the test part; "" where there is but one fold."""

    name: str
    train: Part
    dev: Part
    test: Part


def directories(data: Path) -> list[Fold]:
    """DIR/train, DIR/dev and DIR/test as the only fold."""
    manifests = [Manifest.open(data / part) for part in ("train", "dev", "test")]
    return [Fold("", *(Part(manifest, np.arange(len(manifest))) for manifest in manifests))]


def left_out(manifest: Manifest, column: str) -> list[Fold]:
    """Each value of a column is test once, the one after it (in the order of their names) dev, the others are train; ValueError for fewer than three."""
    values = np.array(read_labels(manifest, column))
    names = sorted(set(values.tolist()))
    if len(names) < 3:
        raise ValueError(f"{manifest.path / column}: has {len(names)} different values; folds need at least three")
    return numbered_folds(manifest, np.searchsorted(names, values), names)


def numbered_folds(manifest: Manifest, parts: np.ndarray, names: Sequence[str]) -> list[Fold]:
    """Folds of a directory whose utterances are in numbered parts: test one, dev the next, train the rest. parts: (utterance,)."""
    found = []
    for number, name in enumerate(names):
        after = (number + 1) % len(names)
        chosen = (parts != number) & (parts != after), parts == after, parts == number
        train, dev, test = (Part(manifest, np.flatnonzero(rows)) for rows in chosen)
        found.append(Fold(name, train, dev, test))
    return found


def shared_features(out: Path) -> Path:
    """Where the pooled features of an upstream are, of which tasks on the same recordings share one pass. out: the folder of a task."""
    return out.parent / "pooled"


@dataclass(frozen=True)
class Pool:
    """From data directories to their pooled features, kept in `folder`: one pass each, or none where it was made before.

    memory_gb: features up to so many are held in memory, else read from the disk.
    """

    source: FeatureSource
    folder: Path
    reading: CacheConfig
    memory_gb: float
    ledger: Ledger
    log: Callable[[str], None]

    def features(self, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
        """Return (utterance, layer, dim) float32 and (utterance,) bool, False where the recording could not be used."""
        pooled = self.pooled(manifest)
        return self.held(pooled.features), pooled.usable

    def pooled(self, manifest: Manifest | Pieces) -> PooledFeatures:
        """Return them as they are on disk."""
        pieces = manifest if isinstance(manifest, Pieces) else Pieces.whole(manifest)
        # The cache and the loader ask only for what `Pieces` has.
        read = cast("Manifest", pieces)
        pooled = pooled_features(read, self.source, self.folder, config=self.reading, log=self.log)
        self.ledger.forwards += pooled.forwards
        self.ledger.cached_forwards += int(pooled.usable.sum()) - pooled.forwards
        return pooled

    def held(self, features: np.ndarray) -> np.ndarray:
        """Copy features into memory where they are few enough."""
        return np.array(features) if features.nbytes <= 1e9 * self.memory_gb else features


@dataclass(frozen=True)
class Ready:
    """A fold with features and labels."""

    name: str
    train: Split
    dev: Split
    test: Split

    def layer(self, number: int) -> Ready:
        """One layer alone, in memory."""
        held: dict[int, np.ndarray] = {}  # parts of one directory share its features

        def cut(split: Split) -> Split:
            if id(split.features) not in held:
                held[id(split.features)] = np.ascontiguousarray(split.features[:, number : number + 1])
            return replace(split, features=held[id(split.features)])

        return Ready(self.name, cut(self.train), cut(self.dev), cut(self.test))


def labels_of(folds: Sequence[Fold], task: Any) -> dict[Path, np.ndarray]:
    """Labels of the directories of some folds, each read once: before the long pass, for they may be at fault."""
    return {path: task.labels(manifest) for path, manifest in manifests_of(folds).items()}


def manifests_of(folds: Sequence[Fold]) -> dict[Path, Manifest]:
    """Directories of some folds."""
    return {part.manifest.path: part.manifest for fold in folds for part in fold[1:]}


def make_ready(folds: Sequence[Fold], labels: dict[Path, np.ndarray], pool: Pool) -> list[Ready]:
    """Read the features of each directory once; recordings that cannot be used are left out."""
    features = {path: pool.features(manifest) for path, manifest in manifests_of(folds).items()}

    def split(part: Part) -> Split:
        array, usable = features[part.manifest.path]
        rows = part.rows[usable[part.rows]]
        return Split(array, rows, labels[part.manifest.path][rows])

    return [Ready(fold.name, split(fold.train), split(fold.dev), split(fold.test)) for fold in folds]


def not_scored(folds: Sequence[Fold], ready: Sequence[Ready]) -> int:
    """Number of utterances of the test parts that cannot be used."""
    return sum(len(fold.test.rows) for fold in folds) - sum(len(fold.test.rows) for fold in ready)


def groups_of(manifest: Manifest, grouping: str) -> np.ndarray:
    """(utterance,) number of the group that each utterance belongs to: its recording, the value of a column, or itself (`utterance`)."""
    if grouping == "utterance":
        return np.arange(len(manifest))
    if grouping == "recording":
        names: Sequence[str] = [manifest.recording(row) for row in range(len(manifest))]
    else:
        names = read_labels(manifest, grouping)
    found: np.ndarray = np.unique(names, return_inverse=True)[1]
    return found


def grouped_parts(groups: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deal out groups to `count` parts so that each part has about the same share of every class: (utterance,) number of the part.

    Large groups go first, each to the part that has least of what it brings. groups, labels: (utterance,) numbers from 0.
    """
    brings = np.zeros((int(groups.max()) + 1, int(labels.max()) + 1))
    np.add.at(brings, (groups, labels), 1.0)
    shares = brings / brings.sum(axis=0).clip(1.0)
    order = np.random.default_rng(seed).permutation(len(brings))
    order = order[np.argsort(-brings[order].sum(axis=1), kind="stable")]
    held = np.zeros((count, brings.shape[1]))
    part = np.empty(len(brings), np.int64)
    for group in order:
        # The increase of the sum of squared shares; among equals the part with least of everything.
        part[group] = np.lexsort((held.sum(axis=1), (held @ shares[group]).round(12)))[0]
        held[part[group]] += shares[group]
    found: np.ndarray = part[groups]
    return found
