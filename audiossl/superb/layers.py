"""Each layer of a frozen upstream by itself under a linear classifier: a curve over layers, beside a control that has nothing to learn.

One pass of the upstream keeps mean and standard deviation over time of all layers. For every fold and layer a support vector machine or a logistic
regression is fitted; dev chooses the cost of errors and the layer. The same with shuffled labels of training says what is reached by chance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from audiossl.data.manifest import Manifest
from audiossl.data.progress import progress
from audiossl.diagnostics.linear_models import LinearHead, fit_linear, scores_of
from audiossl.diagnostics.linear_probe import Standardiser
from audiossl.diagnostics.pooled_cache import CacheConfig
from audiossl.superb.parts import (
    Pool,
    directories,
    grouped_parts,
    groups_of,
    labels_of,
    make_ready,
    manifests_of,
    numbered_folds,
)
from audiossl.superb.score import Score
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.job import Evaluation, Job
    from audiossl.superb.parts import Fold, Ready


@dataclass(frozen=True)
class Config:
    """What is fitted, and on what.

    head: `svm` or `logistic`. costs: of errors, the more the less the weights are held back. deviations: the standard deviation over time beside the mean.
    layers: that are tried, () all. folds: that DIR/all is dealt out to, each test once and dev once; 0 reads DIR/train, dev and test. groups: what no fold
    divides, `recording` or a column such as `utt2spk`; `utterance` lets a recording be in training and in test. shuffles: how often the control shuffles labels.
    slow_down: recordings are played so many times slower, for calls above what the upstream hears. memory_gb: features up to so many are held
    in memory. batch_seconds, num_workers, max_bad_fraction: of the pass over the audio.
    """

    head: LinearHead = "svm"
    costs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    deviations: bool = True
    layers: tuple[int, ...] = ()
    folds: int = 5
    groups: str = "recording"
    shuffles: int = 1
    slow_down: float = 1.0
    memory_gb: float = 4.0
    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) <= 0 or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"superb.costs: {list(self.costs)} are not different positive numbers; give at least one")
        if self.folds in {1, 2} or self.folds < 0:
            raise ValueError(
                f"superb.folds: {self.folds} leaves nothing to train on; give 3 or more, or 0 for directories"
            )
        if self.shuffles < 1 or self.slow_down <= 0:
            raise ValueError("superb: shuffles must be at least 1, and slow_down above 0")


_UNDIVIDED = "no fold divides what superb.groups {!r} keeps together, where the published ones divide recordings"


class Point(NamedTuple):
    """A layer at the cost that dev chose. dev: mean of the metric over folds. tested: values of each fold. parameters: of one classifier."""

    layer: int
    cost: float
    dev: float
    tested: list[dict[str, float]]
    parameters: int

    @property
    def record(self) -> dict[str, float]:
        """Mean over folds."""
        return {"dev": self.dev, "cost": self.cost, **_mean(self.tested)}


def run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    """Score an upstream on a task such as `tasks.caller`; features are kept in `out/pooled`."""
    config: Config = job.config
    upstream, data, seed, device = evaluation.upstream, evaluation.data, evaluation.seed, evaluation.device
    layers, ledger = _layers(config, upstream), Ledger(device)
    reading = CacheConfig(config.batch_seconds, config.num_workers, config.max_bad_fraction, config.deviations)
    pool = Pool(slower(upstream, config.slow_down), out / "pooled", reading, config.memory_gb, ledger, evaluation.log)
    first = Manifest.open(data / ("all" if config.folds else "train"))
    task = job.task_class.from_data(job.task_config, first)
    folds = _dealt(task, first, config, seed) if config.folds else directories(data)
    ready = make_ready(folds, labels_of(folds, task), pool)
    curve = [
        _curve_point(ready, layer, task, config, device)
        for layer in progress(layers, len(layers), f"{job.name}: layers")
    ]
    chosen = max(curve, key=lambda point: point.dev)
    values, control = _mean(chosen.tested), _mean(_control(ready, chosen, task, config, seed, device))
    # A classifier that was fitted by itself would need the same pass.
    utterances = sum(len(manifest) for manifest in manifests_of(folds).values())
    ledger.alone_forwards += len(layers) * len(config.costs) * utterances
    return Score(
        task=job.name,
        upstream=evaluation.upstream_name,
        values=values | {f"{name}_shuffled": value for name, value in control.items()},
        metric=task.metric,
        learning_rate=None,
        seed=seed,
        selection=f"dev {task.metric}",
        step=0,
        parameters=chosen.parameters,
        cost=ledger.cost(),
        dev={},
        more={
            "layer": chosen.layer,
            "cost_of_errors": chosen.cost,
            "layers": {str(point.layer): point.record for point in curve},
            "deviation_over_folds": {name: float(np.std([one[name] for one in chosen.tested])) for name in values},
            "utterances": {part: sum(len(getattr(f, part).rows) for f in ready) for part in ("train", "dev", "test")},
            "heard_up_to_hz": config.slow_down * upstream.sample_rate / 2,
            **({"variant": _UNDIVIDED.format(config.groups)} if config.folds and config.groups != "utterance" else {}),
        },
    )  # fmt: skip


def slower(source: FeatureSource, factor: float) -> FeatureSource:
    """Return the features of the same recordings played slower: their samples at a higher rate, taken for those at the upstream's own."""
    if factor == 1.0:
        return source
    digest = hashlib.sha256(f"{source.digest} {factor} times slower".encode()).hexdigest()
    return replace(source, digest=digest, sample_rate=round(factor * source.sample_rate))


def _layers(config: Config, upstream: FeatureSource) -> tuple[int, ...]:
    wrong = next((layer for layer in config.layers if not 0 <= layer < upstream.num_layers), None)
    if wrong is not None:
        raise ValueError(f"superb.layers: {upstream.name} has layers 0 to {upstream.num_layers - 1}, not {wrong}")
    return config.layers or tuple(range(upstream.num_layers))


def _dealt(task: Any, manifest: Manifest, config: Config, seed: int) -> list[Fold]:
    """Folds of DIR/all; ValueError names a caller whom some fold leaves nothing of to train on."""
    labels = task.labels(manifest)
    parts = grouped_parts(groups_of(manifest, config.groups), labels, config.folds, seed)
    folds = numbered_folds(manifest, parts, [str(number) for number in range(config.folds)])
    for fold in folds:
        absent = np.setdiff1d(labels, labels[fold.train.rows])
        if absent.size or not len(fold.test.rows) or not len(fold.dev.rows):
            who = task.names[int(absent[0])] if absent.size else "everyone"
            raise ValueError(
                f"{manifest.path}: {who} is in too few of what superb.groups {config.groups!r} keeps together for {config.folds} folds; "
                "leave it out, take fewer folds, or set superb.groups utterance, which lets training hear the recordings of test"
            )
    return folds


class Held(NamedTuple):
    """A layer of a fold, standardised by training. x: (item, dim)."""

    x: dict[str, Tensor]
    labels: dict[str, np.ndarray]


def _held(fold: Ready, device: str) -> Held:
    """fold: of one layer."""
    read = Standardiser(fold.train, torch.float32, torch.device(device))
    splits = {"train": fold.train, "dev": fold.dev, "test": fold.test}
    x = {part: read(split.gather(np.arange(len(split.rows)))).squeeze(1) for part, split in splits.items()}
    return Held(x, {part: split.labels for part, split in splits.items()})


def _fit(
    held: Held, labels: np.ndarray, task: Any, config: Config, cost: float, start: np.ndarray | None
) -> np.ndarray:
    x = held.x["train"]
    return fit_linear(x, torch.from_numpy(labels).to(x.device), len(task.names), config.head, cost, start=start)


def _scores(
    folds: Sequence[Held], weights: Sequence[np.ndarray], part: str, task: Any, config: Config
) -> list[dict[str, float]]:
    """Values of each fold on one of its parts."""
    found = []
    for held, own in zip(folds, weights, strict=True):
        outputs = scores_of(own, held.x[part])
        if config.head == "logistic":  # of different utterances, only shares compare
            outputs = outputs.softmax(dim=1)
        found.append(task.scores(outputs.cpu().numpy(), held.labels[part]))
    return found


def _curve_point(ready: Sequence[Ready], layer: int, task: Any, config: Config, device: str) -> Point:
    """Fit a layer at all costs on all folds; dev chooses the cost, in the mean over folds."""
    folds = [_held(fold.layer(layer), device) for fold in ready]
    fitted: dict[float, list[np.ndarray]] = {cost: [] for cost in sorted(config.costs)}
    for held in folds:
        start = None
        for cost, found in fitted.items():
            start = _fit(held, held.labels["train"], task, config, cost, start)
            found.append(start)
    dev = {cost: _mean(_scores(folds, own, "dev", task, config))[task.metric] for cost, own in fitted.items()}
    best = max(dev, key=lambda cost: dev[cost])
    tested = _scores(folds, fitted[best], "test", task, config)
    return Point(layer, best, dev[best], tested, fitted[best][0].size)


def _control(
    ready: Sequence[Ready], chosen: Point, task: Any, config: Config, seed: int, device: str
) -> list[dict[str, float]]:
    """Return what the chosen layer reaches on test when labels of training are shuffled, for each fold and shuffle."""
    found = []
    for number, fold in enumerate(ready):
        held = _held(fold.layer(chosen.layer), device)
        for shuffle in range(config.shuffles):
            labels = np.random.default_rng((seed, number, shuffle)).permutation(held.labels["train"])
            found += _scores([held], [_fit(held, labels, task, config, chosen.cost, None)], "test", task, config)
    return found


def _mean(values: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in values])) for name in values[0]}
