"""Each layer of a frozen upstream by itself under a linear classifier: a curve over layers, beside a control that has nothing to learn.

One pass of the upstream keeps mean and standard deviation over time of all layers. For every fold and layer a support vector machine or a logistic
regression is fitted; the fold's own dev chooses cost of errors, weights of classes and layer, and what is chosen is fitted again to train and dev. The same with
shuffled labels of both says what is reached by chance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from audiossl.data.manifest import Manifest
from audiossl.data.progress import progress
from audiossl.diagnostics.linear_models import ClassWeights, LinearHead, NoMinimumError, fit_linear, scores_of
from audiossl.diagnostics.linear_probe import Standardiser
from audiossl.diagnostics.pooled_cache import CacheConfig
from audiossl.superb.answers import of_folds
from audiossl.superb.parts import (
    Pool,
    directories,
    grouped_parts,
    groups_of,
    labels_of,
    make_ready,
    manifests_of,
    not_scored,
    numbered_folds,
    shared_features,
)
from audiossl.superb.score import Score, told_left_out
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import EncoderOutput
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.job import Evaluation, Job
    from audiossl.superb.parts import Fold, Ready


@dataclass(frozen=True)
class Config:
    """What is fitted, and on what.

    head: `svm` or `logistic`. costs: of errors, the more the less the weights are held back. class_weights: `balanced` makes classes weigh alike, however many
    utterances they have. deviations: the standard deviation over time beside the mean. peak: each utterance is divided by its largest sample. layers: that are
    tried, () all. folds: that DIR/all is dealt out to, each test once and dev once; 0 reads DIR/train, dev and test. groups: what no fold divides, `recording` or
    a column such as `utt2spk`; `utterance` lets a recording be in training and in test. shuffles: how often the control shuffles labels. slow_down: recordings
    are played so many times slower, for calls above what the upstream hears. memory_gb: features up to so many are held in memory. batch_seconds, num_workers,
    max_bad_fraction: of the pass over the audio.
    """

    head: LinearHead = "svm"
    costs: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    class_weights: tuple[ClassWeights, ...] = ("none", "balanced")
    deviations: bool = True
    peak: bool = True
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
        if not self.class_weights or len(set(self.class_weights)) < len(self.class_weights):
            raise ValueError(
                f"superb.class_weights: {list(self.class_weights)} is empty or repeats a value; give none, balanced or both"
            )
        if self.folds in {1, 2} or self.folds < 0:
            raise ValueError(
                f"superb.folds: {self.folds} leaves nothing to train on; give 3 or more, or 0 for directories"
            )
        if self.shuffles < 1 or self.slow_down <= 0:
            raise ValueError("superb: shuffles must be at least 1, and slow_down above 0")


_UNDIVIDED = "no fold divides what superb.groups {!r} keeps together, where the published ones divide recordings"


class Found(NamedTuple):
    """A layer of a fold at the setting that its dev chose. dev: the metric. tested: values on test, fitted to train and dev.

    outputs: (item, class), there. left_out: settings of no minimum.
    """

    layer: int
    cost: float
    class_weights: ClassWeights
    dev: float
    tested: dict[str, float]
    outputs: np.ndarray
    parameters: int
    left_out: int

    @property
    def setting(self) -> dict[str, Any]:
        """What was chosen."""
        return {"layer": self.layer, "cost_of_errors": self.cost, "class_weights": self.class_weights}


def run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    """Score an upstream on a task such as `tasks.caller`; features are kept beside `out`."""
    config: Config = job.config
    upstream, data, seed, device = evaluation.upstream, evaluation.data, evaluation.seed, evaluation.device
    layers, ledger = evaluation.layers(config.layers), Ledger(device)
    reading = CacheConfig(config.batch_seconds, config.num_workers, config.max_bad_fraction, config.deviations)
    heard = slower(at_full_scale(upstream) if config.peak else upstream, config.slow_down)
    pool = Pool(heard, shared_features(out), reading, config.memory_gb, ledger, evaluation.log)
    first = Manifest.open(data / ("all" if config.folds else "train"))
    task = job.task_class.from_data(job.task_config, first)
    folds = _dealt(task, first, config, seed) if config.folds else directories(data)
    ready = make_ready(folds, labels_of(folds, task), pool)
    searched = [
        _search(ready, layer, task, config, seed, device)
        for layer in progress(layers, len(layers), f"{job.name}: layers")
    ]
    curve, chance = ([both[k] for both in searched] for k in (0, 1))
    chosen = _best_layers(curve)
    tested = [one.tested for one in chosen]
    values, control = _mean(tested), _mean([one.tested for one in _best_layers(chance)])
    left_out = sum(one.left_out for point in (*curve, *chance) for one in point)
    # A classifier that was fitted by itself would need the same pass.
    utterances = sum(len(manifest) for manifest in manifests_of(folds).values())
    ledger.alone_forwards += len(layers) * len(config.costs) * len(config.class_weights) * utterances
    return Score(
        task=job.name,
        upstream=evaluation.upstream_name,
        values=values | {f"{name}_shuffled": value for name, value in control.items()},
        metric=task.metric,
        learning_rate=None,
        seed=seed,
        selection=f"dev {task.metric}{' of each fold' if len(ready) > 1 else ''}",
        step=0,
        parameters=chosen[0].parameters,
        cost=ledger.cost(),
        dev={},
        more={
            "layer": " ".join(dict.fromkeys(str(one.layer) for one in chosen)),
            "chosen": [one.setting for one in chosen],
            "layers": {str(point[0].layer): _mean([{"dev": one.dev, **one.tested} for one in point]) for point in curve},
            "deviation_over_folds": {
                name: float(np.std([one[name] for one in tested], ddof=1)) if len(tested) > 1 else 0.0 for name in values
            },
            "intervals": task.intervals(
                [(one.outputs, fold.test.labels) for one, fold in zip(chosen, ready, strict=True)], seed=seed
            ),
            "utterances": {part: sum(len(getattr(f, part).rows) for f in ready) for part in ("train", "dev", "test")},
            **told_left_out(not_scored(folds, ready)),
            "heard_up_to_hz": config.slow_down * upstream.sample_rate / 2,
            **({"fits_without_minimum": left_out} if left_out else {}),
            **({"variant": _UNDIVIDED.format(config.groups)} if config.folds and config.groups != "utterance" else {}),
        },
        answers=of_folds(
            (fold.name, task.answers(part.test.ids(fold.test.rows), one.outputs, fold.test.labels))
            for one, fold, part in zip(chosen, ready, folds, strict=True)
        ),
    )  # fmt: skip


def slower(source: FeatureSource, factor: float) -> FeatureSource:
    """Return the features of the same recordings played slower: their samples at a higher rate, taken for those at the upstream's own."""
    if factor == 1.0:
        return source
    digest = hashlib.sha256(f"{source.digest} {factor} times slower".encode()).hexdigest()
    return replace(source, digest=digest, sample_rate=round(factor * source.sample_rate))


def at_full_scale(source: FeatureSource) -> FeatureSource:
    """Return the features of the same recordings, each divided by its largest sample."""
    digest = hashlib.sha256(f"{source.digest} at full scale".encode()).hexdigest()

    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        peak = waveform.abs().amax(dim=1, keepdim=True)
        return source.extract(waveform / peak.clamp(min=torch.finfo(waveform.dtype).tiny), lengths)

    return replace(source, digest=digest, extract=extract)


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


def _search(
    ready: Sequence[Ready], layer: int, task: Any, config: Config, seed: int, device: str
) -> tuple[list[Found], list[Found]]:
    """Try all settings on a layer: (of each fold), and with shuffled labels (of each fold and shuffle), where there is nothing to learn."""
    found, chance = [], []
    for number, fold in enumerate(ready):
        held = _held(fold.layer(layer), device)
        found.append(_best(held, layer, task, config))
        for shuffle in range(config.shuffles):
            rng = np.random.default_rng((seed, number, shuffle))
            shuffled = {part: rng.permutation(held.labels[part]) for part in ("train", "dev")}
            chance.append(_best(Held(held.x, {**held.labels, **shuffled}), layer, task, config))
    return found, chance


def _best(held: Held, layer: int, task: Any, config: Config) -> Found:
    """Fit all settings to train, and the one that is best on dev to train and dev."""
    fitted = []
    for class_weights in config.class_weights:
        start = None
        for cost in sorted(config.costs):
            try:
                start = _fit(held, ("train",), task, config, cost, class_weights, start)
            except NoMinimumError:
                break  # higher costs are harder still
            dev = float(_scores(held, start, "dev", task, config)[task.metric])
            fitted.append((dev, cost, class_weights, start))
    if not fitted:
        raise ValueError(f"superb.costs: {list(config.costs)} are all too high for layer {layer}; give smaller ones")
    dev, cost, class_weights, start = max(fitted, key=lambda one: one[0])
    try:
        final = _fit(held, ("train", "dev"), task, config, cost, class_weights, start)
    except NoMinimumError as error:  # began from that of train, so that it is near
        final = error.reached
    outputs = _outputs(held, final, "test", config)
    tested = task.scores(outputs, held.labels["test"])
    left_out = len(config.costs) * len(config.class_weights) - len(fitted)
    return Found(layer, cost, class_weights, dev, tested, outputs, final.size, left_out)


def _best_layers(points: Sequence[list[Found]]) -> list[Found]:
    """Return what each fold's own dev chose among layers. points: (layer, fold)."""
    return [max(of_fold, key=lambda one: one.dev) for of_fold in zip(*points, strict=True)]


def _fit(
    held: Held, parts: tuple[str, ...], task: Any, config: Config, cost: float, class_weights: ClassWeights,
    start: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    x = torch.cat([held.x[part] for part in parts])
    labels = torch.from_numpy(np.concatenate([held.labels[part] for part in parts])).to(x.device)
    return fit_linear(x, labels, len(task.names), config.head, cost, class_weights=class_weights, start=start)


def _scores(held: Held, weights: np.ndarray, part: str, task: Any, config: Config) -> dict[str, float]:
    """Values on one of the parts."""
    found: dict[str, float] = task.scores(_outputs(held, weights, part, config), held.labels[part])
    return found


def _outputs(held: Held, weights: np.ndarray, part: str, config: Config) -> np.ndarray:
    """(item, class), what a classifier says of one of the parts."""
    outputs = scores_of(weights, held.x[part])
    if config.head == "logistic":  # of different utterances, only shares compare
        outputs = outputs.softmax(dim=1)
    return outputs.cpu().numpy()


def _mean(values: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in values])) for name in values[0]}
