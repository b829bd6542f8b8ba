"""Perceptrons on time-means of the frozen upstream, with early stopping: the probes of MARBLE and HEAR.

One pass of the upstream keeps the time-means of all layers. Heads of all settings train from them, those of one shape at once; dev
chooses one setting, on the first fold where there are several, and that one is trained on the others (as HEAR's published code does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from audiossl.data.manifest import Manifest
from audiossl.diagnostics.linear_probe import AsStored, Standardiser
from audiossl.diagnostics.mlp_grid import Init, MLPShape
from audiossl.diagnostics.mlp_training import MLPTraining, fit_mlps, predictions
from audiossl.diagnostics.pooled_cache import CacheConfig
from audiossl.superb.answers import of_folds
from audiossl.superb.parts import Pool, directories, labels_of, left_out, make_ready, not_scored, shared_features
from audiossl.superb.score import Score, told_left_out
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.diagnostics.head_training import Read
    from audiossl.diagnostics.mlp_grid import MLPGrid
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.job import Evaluation, Job
    from audiossl.superb.parts import Ready


@dataclass(frozen=True)
class Config:
    """Which heads are tried, and how they are trained; the defaults are HEAR's.

    learning_rates, hidden_layers (how many), inits: every combination is a head. layers: `weighted` learns a share of each, `each` tries one after the other.
    input_layer: with the input of the first block, which an upstream without blocks has alone.
    batch: utterances. eval_every: epochs. patience: evaluations without a better score until a head stops. plateau: after so many its rate is halved; 0 never.
    standardise: inputs by training's mean and deviation (our variant). folds: column of DIR/all whose values are left out in turn; "" reads DIR/train, dev and test.
    memory_gb: features up to so many are held in memory. batch_seconds, num_workers, max_bad_fraction: of the pass over the audio.
    """

    learning_rates: tuple[float, ...] = (3.2e-3, 1e-3, 3.2e-4, 1e-4)
    hidden_layers: tuple[int, ...] = (1, 2)
    inits: tuple[Init, ...] = ("xavier_uniform", "xavier_normal")
    hidden_dim: int = 1024
    batch_norm: bool = True
    dropout: float = 0.1
    layers: Literal["weighted", "each"] = "weighted"
    input_layer: bool = True
    batch: int = 1024
    epochs: int = 500
    eval_every: int = 3
    patience: int = 20
    plateau: int = 0
    standardise: bool = False
    folds: str = ""
    memory_gb: float = 4.0
    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        for name in ("learning_rates", "hidden_layers", "inits"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"superb.{name}: {list(values)} is empty or repeats a value; give different ones")
        rates = all(0 < rate < math.inf for rate in self.learning_rates)
        if not rates or min(self.hidden_layers) < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "superb: learning_rates must be finite and above 0, hidden_layers at least 0, dropout from 0 to below 1"
            )
        if min(self.hidden_dim, self.epochs, self.eval_every, self.patience) < 1 or self.batch < 2 or self.plateau < 0:
            raise ValueError(
                "superb: hidden_dim, epochs, eval_every and patience must be at least 1, batch 2, plateau 0"
            )


class Setting(NamedTuple):
    """What tells one head from another; layer: None is the weighted sum of all."""

    layer: int | None
    hidden_layers: int
    init: Init
    rate: float


@dataclass(frozen=True)
class LayersFrom:
    """What `read` gives, without the layers before `first`."""

    read: Read
    first: int

    def __call__(self, features: np.ndarray) -> Tensor:
        """features: (..., layer, dim)."""
        return self.read(features)[..., self.first :, :]


class Fitted(NamedTuple):
    """A head at its best on dev. read: what it wants done to features."""

    setting: Setting
    head: MLPGrid
    read: Read
    score: float
    loss: float
    epoch: int
    trained: int


def run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    """Score an upstream on a task whose class is `tasks.attribute`; features are kept beside `out`."""
    config: Config = job.config
    upstream, data, ledger = evaluation.upstream, evaluation.data, Ledger(evaluation.device)
    reading = CacheConfig(config.batch_seconds, config.num_workers, config.max_bad_fraction)
    pool = Pool(upstream, shared_features(out), reading, config.memory_gb, ledger, evaluation.log)
    folds = left_out(Manifest.open(data / "all"), config.folds) if config.folds else directories(data)
    task = job.task_class.from_data(job.task_config, folds[0].train.manifest)
    labels = labels_of(folds, task)
    for part in (part for fold in folds for part in (fold.dev, fold.test)):
        task.check_scored(labels[part.manifest.path][part.rows], str(part.manifest.path))
    ready = [_with_targets(fold, task) for fold in make_ready(folds, labels, pool)]
    for fold, whole in zip(ready, folds, strict=True):
        if config.batch_norm and any(config.hidden_layers) and len(fold.train.rows) < 2:
            raise ValueError(
                f"{whole.train.manifest.path}: fold {fold.name} has one usable utterance to train on, and batch norm needs two; join folds"
            )
    untold = [len(task.check_scored(fold.test.labels, str(data))) for fold in ready]
    tried = list(_tried(ready[0], task, _settings(config, upstream), job, evaluation))
    if not any(np.isfinite(one.score) for one in tried):
        raise ValueError(f"superb {job.name}: no head gives a finite loss; try smaller superb.learning_rates")
    best = max(tried, key=lambda one: (one.score, -one.loss))
    fitted = [best]
    for fold in ready[1:]:
        fitted += _tried(fold, task, [best.setting], job, evaluation)
    outputs = [_tested(one, fold) for one, fold in zip(fitted, ready, strict=True)]
    values = [task.scores(found, fold.test.labels) for found, fold in zip(outputs, ready, strict=True)]
    ledger.alone_forwards += sum(_forwards_alone(one, ready[0], config) for one in tried)
    ledger.alone_forwards += sum(
        _forwards_alone(one, fold, config) for one, fold in zip(fitted[1:], ready[1:], strict=True)
    )
    return Score(
        task=job.name,
        upstream=evaluation.upstream_name,
        values={name: float(np.mean([one[name] for one in values])) for name in values[0]},
        metric=task.metric,
        learning_rate=best.setting.rate,
        seed=evaluation.seed,
        selection=f"dev {task.metric}{' of the first fold' if len(ready) > 1 else ''}",
        step=best.epoch * -(-len(ready[0].train.rows) // config.batch),
        parameters=best.head.values.shape[1],
        cost=ledger.cost(),
        dev=_best_by(tried, "rate"),
        shares=(0.0,) * _first(config, upstream) + tuple(best.head.shares()[0].tolist())
        if best.setting.layer is None
        else (),
        more=_more(ready, fitted, values, tried)
        | ({"labels_not_scored": untold} if any(untold) else {})
        | told_left_out(not_scored(folds, ready)),
        answers=of_folds(
            (fold.name, task.answers(part.test.ids(fold.test.rows), found, fold.test.labels))
            for found, fold, part in zip(outputs, ready, folds, strict=True)
        ),
    )


def _settings(config: Config, upstream: FeatureSource) -> list[Setting]:
    layers = [None] if config.layers == "weighted" else range(_first(config, upstream), upstream.num_layers)
    return [Setting(*one) for one in product(layers, config.hidden_layers, config.inits, config.learning_rates)]


def _first(config: Config, upstream: FeatureSource) -> int:
    """Return the first layer that is used."""
    return int(not config.input_layer and upstream.num_layers > 1)


def _with_targets(fold: Ready, task: Any) -> Ready:
    """Labels as the task wants them for training."""
    train, dev, test = (
        replace(part, labels=task.targets(part.labels, fold.train.labels)) for part in (fold.train, fold.dev, fold.test)
    )
    return replace(fold, train=train, dev=dev, test=test)


def _tried(fold: Ready, task: Any, settings: Sequence[Setting], job: Job, evaluation: Evaluation) -> Iterator[Fitted]:
    """Train heads of all settings on a fold; those of one layer and depth at once."""
    config: Config = job.config
    training = MLPTraining(
        config.batch, config.epochs, config.eval_every, config.patience, config.plateau, config.dropout
    )
    places = list(dict.fromkeys((one.layer, one.hidden_layers) for one in settings))
    for layer, depth in places:
        cut, where = fold if layer is None else fold.layer(layer), torch.device(evaluation.device)
        whole = Standardiser(cut.train, torch.float32, where) if config.standardise else AsStored(torch.float32, where)
        first = _first(config, evaluation.upstream) if layer is None else 0
        read = LayersFrom(whole, first) if first else whole
        _, layers, dim = cut.train.features.shape
        shape = MLPShape(layers - first, dim, (config.hidden_dim,) * depth, len(task.names), config.batch_norm)
        own = [one for one in settings if (one.layer, one.hidden_layers) == (layer, depth)]
        label = " ".join(filter(None, (f"{job.name}:", fold.name, f"{len(own)} heads of {depth} hidden layers")))
        found = fit_mlps(
            cut.train, cut.dev, shape, [(one.rate, one.init) for one in own], training,
            targets=task, read=read, seed=evaluation.seed, device=evaluation.device,
            label=label if layer is None else f"{label} on layer {layer}",
        )  # fmt: skip
        for row, setting in enumerate(own):
            score, loss, epoch = float(found.scores[row]), float(found.losses[row]), int(found.epochs[row])
            yield Fitted(setting, found.heads.pick([row]), read, score, loss, epoch, int(found.stopped[row]))


def _tested(fitted: Fitted, fold: Ready) -> np.ndarray:
    """What the chosen head says of test: (item, output)."""
    layer = fitted.setting.layer
    test = (fold if layer is None else fold.layer(layer)).test
    return predictions(fitted.head, test, fitted.read)[0].numpy()


def _forwards_alone(fitted: Fitted, fold: Ready, config: Config) -> int:
    """Utterances that would go through the upstream if a head were trained by itself."""
    evaluations = -(-fitted.trained // config.eval_every)
    return fitted.trained * len(fold.train.rows) + evaluations * len(fold.dev.rows) + len(fold.test.rows)


def _best_by(tried: Sequence[Fitted], name: str) -> dict[Any, float]:
    """Return the best score on dev by a part of the setting; what came to nothing is left out."""
    found: dict[Any, float] = {}
    for one in tried:
        if np.isfinite(one.score):
            key = getattr(one.setting, name)
            found[key] = max(one.score, found.get(key, -np.inf))
    return found


def _more(
    ready: Sequence[Ready], fitted: Sequence[Fitted], values: list[dict[str, float]], tried: Sequence[Fitted]
) -> dict[str, Any]:
    """What else belongs to the score."""
    setting = fitted[0].setting
    more: dict[str, Any] = {
        "head": {"hidden_layers": setting.hidden_layers, "init": setting.init, "layer": setting.layer},
        "epochs": [one.epoch for one in fitted],
        "utterances": {part: sum(len(getattr(f, part).rows) for f in ready) for part in ("train", "dev", "test")},
    }
    if setting.layer is not None:
        more["dev_by_layer"] = {str(layer): score for layer, score in _best_by(tried, "layer").items()}
    if len(ready) > 1:
        more["folds"] = {fold.name: one for fold, one in zip(ready, values, strict=True)}
    return more
