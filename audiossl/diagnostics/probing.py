"""A probe from data directories to `probe.json`: labels, splits, and a record that says how its number was chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import write_json
from audiossl.data.lots import limits, lot
from audiossl.diagnostics.linear_probe import Split
from audiossl.diagnostics.results import command_line, machine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.linear_probe import ProbeResult
    from audiossl.diagnostics.pooled_cache import PooledFeatures

_REQUIRED = ("learning_rate", "seeds", "selection")
_BY_FRACTION = (
    "accuracy", "accuracy_std", "learning_rate", "seeds", "dev_accuracy_by_learning_rate", "utterances", "layer_weights",
)  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """A data directory with its pooled features and the labels of one column."""

    manifest: Manifest
    pooled: PooledFeatures
    labels: list[str]


def read_labels(manifest: Manifest, column: str) -> list[str]:
    """Return the label of each utterance; ValueError where the directory lacks the column, or an utterance a label."""
    values = manifest.column(column)
    return [values[index].strip() for index in range(len(manifest))]


def splits_of(train: Labelled, dev: Labelled, test: Labelled, column: str) -> tuple[list[Split], tuple[str, ...]]:
    """Return train, dev and test as class numbers, and the classes: the labels of train, sorted.

    ValueError names an utterance of dev or test whose class training does not have.
    """
    rows = [np.flatnonzero(part.pooled.usable) for part in (train, dev, test)]
    classes = tuple(sorted({train.labels[row] for row in rows[0]}))
    _check_classes(classes, train, column)
    number = {name: index for index, name in enumerate(classes)}
    found = []
    for part, kept in zip((train, dev, test), rows, strict=True):
        strange = next((row for row in kept if part.labels[row] not in number), None)
        if strange is not None:
            raise ValueError(
                f"{part.manifest.path / column}: {part.manifest.ids[int(strange)]} is of class {part.labels[strange]!r}, which "
                f"{train.manifest.path} does not have; give directories that share their classes, or split one with --split"
            )
        labels = np.array([number[part.labels[row]] for row in kept], dtype=np.int64)
        found.append(Split(part.pooled.features, kept, labels))
    return found, classes


def split_one(
    whole: Labelled, shares: tuple[float, float, float], *, seed: int, column: str
) -> tuple[list[Split], tuple[str, ...]]:
    """Split one directory by utterance into train, dev and test, each class by the same shares; and the classes.

    ValueError names a class that is too small to be in all three.
    """
    kept = np.flatnonzero(whole.pooled.usable)
    classes, labels = np.unique([whole.labels[row] for row in kept], return_inverse=True)
    _check_classes(classes, whole, column)
    parts = stratified(labels, shares, seed=seed)
    for index, part in enumerate(("train", "dev", "test")):
        absent = np.setdiff1d(np.arange(len(classes)), labels[parts == index])
        if absent.size:
            name, size = str(classes[absent[0]]), int((labels == absent[0]).sum())
            raise ValueError(
                f"{whole.manifest.path / column}: class {name!r} with {size} utterances leaves none for {part}; "
                "choose other shares or leave it out"
            )
    found = [Split(whole.pooled.features, kept[parts == part], labels[parts == part]) for part in range(3)]
    return found, tuple(str(name) for name in classes)


def stratified(labels: np.ndarray, shares: tuple[float, float, float], *, seed: int) -> np.ndarray:
    """Return 0 (train), 1 (dev) or 2 (test) for every item: a random split with the same shares in every class.

    labels: (item,) class numbers.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    sizes = np.bincount(labels)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(labels), dtype=np.int64)  # place of each item in its shuffled class
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    # The ends are rounded, not the sizes: the three add up whatever the class's size.
    ends = np.rint(np.outer(sizes, np.cumsum(shares)[:2])).astype(np.int64)  # (class, train and dev)
    part: np.ndarray = (rank >= ends[labels, 0]).astype(np.int64) + (rank >= ends[labels, 1])
    return part


def of_fraction(train: Split, ids: Sequence[str], fraction: float, *, seed: int) -> Split:
    """Return the utterances that show their label: `fraction` of each class, at least one; smaller fractions are parts of larger ones.

    ids: of all rows of the features; which are drawn depends on them and the seed alone, as in `supervised_speaker`.
    """
    lots = np.fromiter((lot(ids[int(row)], seed) for row in train.rows), np.uint64, len(train.rows))
    kept = lots <= limits(lots, train.labels, fraction)[train.labels]
    return Split(train.features, train.rows[kept], train.labels[kept])


def parse_shares(text: str) -> tuple[float, float, float]:
    """Read `0.7/0.1/0.2`: shares of train, dev and test."""
    try:
        train, dev, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"--split {text}: not three numbers; write train/dev/test such as 0.7/0.1/0.2") from None
    if min(train, dev, test) <= 0 or abs(train + dev + test - 1) > 1e-6:
        raise ValueError(f"--split {text}: shares must be positive and add up to 1; write for example 0.7/0.1/0.2")
    return train, dev, test


def record(result: ProbeResult, splits: list[Split], classes: tuple[str, ...], **facts: Any) -> dict[str, Any]:
    """Lay out a probe's result for `probe.json`; facts: whatever else the caller knows, `selection` among them."""
    return {
        **facts,
        "accuracy": result.accuracy,
        "accuracy_std": result.std,
        "majority": majority(splits),
        "learning_rate": result.learning_rate,
        "seeds": [asdict(seed) for seed in result.seeds],
        "dev_accuracy_by_learning_rate": [[rate, value] for rate, value in result.dev_accuracies.items()],
        "parameters": result.parameters,
        "utterances": dict(zip(("train", "dev", "test"), (len(split.rows) for split in splits), strict=True)),
        "layer_weights": [float(weight) for weight in result.layer_weights],
        "classes": list(classes),
        "confusion": result.confusion.tolist(),
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def by_fraction(records: dict[float, dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay out what differs between the records of several fractions of the labels, for `probe.json`."""
    return [
        {"fraction": fraction, **{key: content[key] for key in _BY_FRACTION}} for fraction, content in records.items()
    ]


def majority(splits: list[Split]) -> float:
    """Test accuracy, in percent, of always naming the commonest class of train."""
    commonest = int(np.bincount(splits[0].labels).argmax())
    return 100.0 * float(np.mean(splits[2].labels == commonest))


def write_probe(path: Path, content: dict[str, Any]) -> None:
    """Write `probe.json`, atomically; ValueError if it does not say which learning rate, seeds and selection its number has."""
    absent = [key for key in _REQUIRED if not content.get(key)]
    if absent:
        raise ValueError(
            f"{path}: the probe does not say its {absent[0]!r}; a score is only written with how it was chosen"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def _check_classes(classes: Any, part: Labelled, column: str) -> None:
    if len(classes) < 2:
        raise ValueError(f"{part.manifest.path / column}: has {len(classes)} class; a probe needs at least two")
