"""Where a probe's errors come from: representation, probe or encoder (Dubois et al., 2023, "Evaluating SSL via risk decomposition")."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_stacks
from audiossl.diagnostics.linear_probe import Split, train_probe
from audiossl.diagnostics.pooled_cache import data_digest
from audiossl.diagnostics.subject import Subject, spoken

TITLE = "Risk decomposition"
TAKES = ("probe", "train")


@dataclass(frozen=True)
class Config:
    """shots: labels per class of the few-shot decomposition; 0: only the one with all labels."""

    shots: int = 10

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(f"risk.shots is {self.shots}; give labels per class, or 0 for none")


@dataclass(frozen=True)
class Risks:
    """Errors of probes, percent, on fixed features.

    fitted: trained and tested on the same data, which the encoder was trained on. held_out: tested on a part of those data that the probe
    did not see. unseen: tested on data that the encoder did not see either.
    """

    fitted: float
    held_out: float
    unseen: float

    def components(self) -> dict[str, float]:
        """What each step adds; their sum is `unseen`. The first holds the approximation error of the architecture too."""
        return {
            "usability": self.fitted,
            "probe generalisation": self.held_out - self.fitted,
            "encoder generalisation": self.unseen - self.held_out,
        }


def check(subject: Subject, _config: Config) -> None:
    """ValueError where the data that the encoder was trained on are those that stand for unseen ones."""
    train, unseen = subject.train, subject.manifest
    if train is None or list(train.ids) != list(unseen.ids):
        return
    if data_digest(train) == data_digest(unseen):
        raise ValueError(
            f"--train {train.path}: holds the same recordings as --data {unseen.path}, which risk wants unseen; give another --train or --data"
        )


def run(subject: Subject, config: Config) -> Finding:
    """Decompose the error of a probe of all layers, for every column with classes in both directories, with all and with few labels."""
    if subject.train is None:
        raise SkippedError("no data that the encoder was trained on; give them, with labels, as --train DIR")
    finding = Finding()
    bars = {}
    for column in subject.labels():
        splits = _splits(subject, column, finding)
        if splits is None:
            continue
        classes = int(max(split.labels.max() for split in splits)) + 1
        decompositions = {"all labels": decompose(subject, splits, classes)}
        if config.shots:
            few = _few(splits[0], config.shots, subject.seed)
            name = f"{config.shots} labels per class"
            decompositions[name] = decompose(
                subject, splits, classes, few=few, fitted=decompositions["all labels"].fitted
            )
        for shots, risks in decompositions.items():
            bars[f"{spoken(column)}\n{shots}"] = risks.components()
            for part, value in {**risks.components(), "total risk": risks.unseen}.items():
                finding.add(
                    f"{part} ({spoken(column)}, {shots})",
                    value,
                    "%",
                    selection="dev accuracy",
                    train=str(subject.train.path),
                )
    if not bars:
        raise SkippedError("; ".join(finding.notes) or "no column has classes; add an utt2X with labels")
    finding.picture(lambda figure: draw_stacks(figure, bars, "error, %"), "Parts of the error on unseen data")
    return finding


def decompose(
    subject: Subject, splits: list[Split], classes: int, *, few: Split | None = None, fitted: float | None = None
) -> Risks:
    """Train the probes. splits: train, dev and held-out part of the encoder's data, and unseen data.

    few: what probes that must generalise are trained on instead. fitted: known from before; how usable the features are does not depend on
    the number of labels.
    """
    train, dev, held_out, unseen = splits
    whole = _joined(train, dev, held_out)

    def risk(on: Split, choose: Split, test: Split) -> float:
        found = train_probe(on, choose, test, num_classes=classes, config=subject.probe, device=subject.device)
        return 100.0 - found.accuracy

    return Risks(
        fitted=risk(whole, whole, whole) if fitted is None else fitted,
        held_out=risk(few or train, dev, held_out),
        unseen=risk(few or _joined(train, held_out), dev, unseen),
    )


def _splits(subject: Subject, column: str, finding: Finding) -> list[Split] | None:
    """Train, dev and held-out part of the encoder's data, and the unseen data of the same classes."""
    assert subject.train is not None
    if column not in subject.train.column_names():
        finding.notes.append(f"{subject.train.path} has no {column}")
        return None
    pooled = subject.pool(subject.source, subject.train)
    labels = subject.labels_of(subject.train, column, np.flatnonzero(pooled.usable))
    found = subject.split(pooled.features, labels)
    if found is None:
        finding.notes.append(f"{subject.train.path / column}: its classes are too small to be split {subject.shares}")
        return None
    splits, names = found
    other = subject.labels_of(subject.manifest, column, subject.rows)
    number = {name: index for index, name in enumerate(names)}
    mapped = np.array([number.get(name, -1) for name in other.names], dtype=np.int64)[other.numbers]
    if not (mapped >= 0).any():
        finding.notes.append(f"{column}: {subject.manifest.path} and {subject.train.path} share no class")
        return None
    if (mapped < 0).any():
        finding.notes.append(
            f"{column}: {int((mapped < 0).sum())} unseen utterances are of classes that training lacks"
        )
    return [*splits, Split(subject.pooled.features, other.rows[mapped >= 0], mapped[mapped >= 0])]


def _joined(*splits: Split) -> Split:
    """Several splits of the same features as one."""
    rows, labels = (np.concatenate([getattr(split, name) for split in splits]) for name in ("rows", "labels"))
    return replace(splits[0], rows=rows, labels=labels)


def _few(split: Split, shots: int, seed: int) -> Split:
    """At most `shots` items of each class, at random."""
    order = np.lexsort((np.random.default_rng(seed).random(len(split.labels)), split.labels))
    sizes = np.bincount(split.labels)
    rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[split.labels[order]]
    chosen = np.sort(order[rank < shots])
    return replace(split, rows=split.rows[chosen], labels=split.labels[chosen])
