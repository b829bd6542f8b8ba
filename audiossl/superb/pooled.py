"""Tasks with labels per utterance: one pass of the frozen upstream keeps time-means, from which heads of all learning rates train at once.

The published head is affine in time, so that it loses nothing by starting from the mean over frames; of the upstream, which would run at every
step of every head, one pass is left. Where the protocol has folds, those of all folds train together too. Features are kept in float32; heads have
`_precision`'s, so that on a processor they come out as if each was trained alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.batched_heads import HeadShape
from audiossl.diagnostics.head_training import Group, Training, balanced, fit, shuffled
from audiossl.diagnostics.linear_probe import AsStored, Split, Standardiser
from audiossl.diagnostics.pooled_cache import CacheConfig
from audiossl.diagnostics.probing import read_labels
from audiossl.superb.answers import of_folds
from audiossl.superb.hearing import louder
from audiossl.superb.parts import Pool, shared_features
from audiossl.superb.pieces import Pieces, draw_crops
from audiossl.superb.score import Score, told_left_out
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from audiossl.diagnostics.head_training import Fitted, Read
    from audiossl.superb.job import Evaluation, Job

_CHUNK = 512  # utterances that are predicted together
_ONE_RATE = "one learning rate for all folds, the best in the mean over their dev parts, which hold utterances that other folds test"


@dataclass(frozen=True)
class Config:
    """How heads are trained; the defaults are what SUPERB's tasks of this kind have in common.

    learning_rates: one head each; which ones the published scores were chosen from is not known. batch: utterances. eval_every: steps. clip_norm: of the
    gradient of each head with its layer weights. sampling: `balanced` draws every class as often, with replacement, and weighs dev so too.
    standardise: inputs by training's mean and deviation, as `audiossl probe` does (our variant). folds: column whose values are left out for test,
    one after the other, out of DIR/all; the learning rate is the best in their mean, the step each fold's own. dev_share: of the other utterances of a fold.
    crops: of crop_seconds, drawn from each training utterance beforehand; 0: whole utterances. gain_db: put on the waveform. memory_gb: training
    features up to so many are held in memory, else read from the disk. batch_seconds, num_workers, max_bad_fraction: of the pass over
    the audio, as for the pooled cache.
    """

    learning_rates: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    steps: int = 200_000
    batch: int = 32
    eval_every: int = 5000
    clip_norm: float = 1.0
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    standardise: bool = False
    folds: str = ""
    dev_share: float = 0.2
    crops: int = 0
    crop_seconds: float = 8.0
    gain_db: float = 0.0
    memory_gb: float = 4.0
    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        rates = list(self.learning_rates)
        if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
            raise ValueError(
                f"superb.learning_rates: {rates} are not different finite positive numbers; give at least one"
            )
        if min(self.steps, self.batch, self.eval_every) < 1 or min(self.crops, self.clip_norm, self.memory_gb) < 0:
            raise ValueError(
                "superb: steps, batch and eval_every must be at least 1, crops, clip_norm, memory_gb at least 0"
            )
        if self.crop_seconds <= 0 or not 0 < self.dev_share < 1:
            raise ValueError("superb: crop_seconds must be above 0, and dev_share between 0 and 1")
        if self.folds and (self.crops or self.standardise):
            raise ValueError(
                f"superb.folds: {self.folds!r} goes with whole utterances as they are; set crops 0, standardise false"
            )


class Fold(NamedTuple):
    """What a group of heads is trained, chosen and tested on. tested: the data directory of `test`, whose rows are its utterances."""

    name: str
    train: Split
    dev: Split
    test: Split
    tested: Manifest


def run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    """Score an upstream on a task whose class is an `nn.utterance_classifier.UtteranceClassifier`; features are kept beside `out`."""
    config: Config = job.config
    ledger, where = Ledger(evaluation.device), torch.device(evaluation.device)
    upstream = evaluation.upstream
    reading = CacheConfig(config.batch_seconds, config.num_workers, config.max_bad_fraction)
    heard = louder(upstream, config.gain_db)
    pool = Pool(heard, shared_features(out), reading, config.memory_gb, ledger, evaluation.log)
    first = Manifest.open(evaluation.data / ("all" if config.folds else "train"))
    dtype = _precision(where)
    task = job.task_class.from_data(upstream.shape, job.task_config, first).to(where, dtype)
    folds = list(
        _folds(task, first, pool, config) if config.folds else [_directories(task, first, pool, config, evaluation)]
    )
    read = Standardiser(folds[0].train, dtype, where) if config.standardise else AsStored(dtype, where)
    fitted = _fit(task, folds, read, dtype, job, evaluation)
    chosen = fitted.choose(config.learning_rates, f"superb {job.name}")
    values, answers = [], []
    for number, fold in enumerate(folds):
        task.head.load_state_dict(fitted.heads.state(chosen, number))
        said = _predict(task, fold, read)
        values.append(task.evaluate(said, fold.tested))
        answers.append((fold.name, task.answers(said, fold.tested, {})))
    ledger.alone_forwards += sum(_forwards_alone(fold, config) for fold in folds)
    return Score(
        task=job.name,
        upstream=evaluation.upstream_name,
        values={name: float(np.mean([one[name] for one in values])) for name in values[0]},
        metric=task.metric[0],
        learning_rate=config.learning_rates[chosen],
        seed=evaluation.seed,
        selection=f"dev accuracy{', classes alike' if config.sampling == 'balanced' else ''}",
        step=int(fitted.steps[chosen].max()),
        parameters=fitted.heads.values.shape[-1],
        cost=ledger.cost(),
        dev=_dev(fitted, config, evaluation.log),
        shares=tuple(fitted.heads.shares()[chosen].mean(dim=0).tolist()),
        more={
            "precision": str(dtype).removeprefix("torch."),
            **_more(folds, values, fitted.steps[chosen].tolist(), config),
            # Of folds, each tests other utterances of one directory.
            **told_left_out(len(folds[0].tested) - sum(len(fold.test.rows) for fold in folds)),
        },
        answers=of_folds(answers),
    )


def _precision(device: torch.device) -> torch.dtype:
    """Return that of the heads: what float32 rounds off grows over 200,000 steps, and float64 is slow on most GPUs, if they have it."""
    return torch.float64 if device.type == "cpu" else torch.float32


def class_numbers(task: Any, manifest: Manifest) -> np.ndarray:
    """Labels of all utterances: (utterance, label); ValueError names one that is not one word, or of a class that training does not have."""
    found, classes = np.empty((len(manifest), len(task.sizes)), np.int64), iter(task.classes)
    for label, (column, size) in enumerate(zip(task.needs, task.sizes, strict=True)):
        number = {next(classes): index for index in range(size)}
        for row, name in enumerate(read_labels(manifest, column)):
            if len(name.split()) != 1:
                raise ValueError(
                    f"{manifest.path / column}: {manifest.ids[row]} says {name!r}; a label is one word: write it with underscores"
                )
            if name not in number:
                raise ValueError(
                    f"{manifest.path / column}: {manifest.ids[row]} is of class {name!r}, which training does not have; "
                    "give directories that share their classes"
                )
            found[row, label] = number[name]
    return found


def _directories(task: Any, train: Manifest, pool: Pool, config: Config, evaluation: Evaluation) -> Fold:
    """Read DIR/train, DIR/dev and DIR/test."""
    manifests = {"train": train, **{part: Manifest.open(evaluation.data / part) for part in ("dev", "test")}}
    labels = {part: class_numbers(task, manifest) for part, manifest in manifests.items()}  # before the long pass
    splits = {}
    for part, manifest in manifests.items():
        pieces, rows = Pieces.whole(manifest), np.arange(len(manifest))
        if config.crops and part == "train":
            pieces, places = draw_crops(manifest, config.crops, config.crop_seconds, evaluation.seed)
            rows, labels[part] = places.ravel(), np.repeat(labels[part], config.crops, axis=0)
        pooled = pool.pooled(pieces)
        kept = pooled.usable[rows]
        features = _held(pooled.features, pool) if part == "train" else pooled.features
        splits[part] = Split(features, rows[kept], labels[part][kept])
    return Fold("", splits["train"], splits["dev"], splits["test"], manifests["test"])


def _folds(task: Any, manifest: Manifest, pool: Pool, config: Config) -> Iterator[Fold]:
    """Leave out one value of a column after the other; of the rest, a random share is dev: another one in each fold, the same in every run."""
    labels = class_numbers(task, manifest)
    values = np.array(read_labels(manifest, config.folds))
    names = sorted(set(values.tolist()))
    if len(names) < 2:
        raise ValueError(f"{manifest.path / config.folds}: has only {names[0]!r}; folds need at least two values")
    for name in names:
        count = int((values != name).sum())
        if not 0 < int((1 - config.dev_share) * count) < count:
            raise ValueError(
                f"{manifest.path / config.folds}: {count} of its utterances are not of {name!r}, too few for train and dev; "
                "give more, or set superb.dev_share"
            )
    pooled = pool.pooled(Pieces.whole(manifest))
    features = _held(pooled.features, pool)
    for name in names:
        others, test = (np.flatnonzero(pooled.usable & chosen) for chosen in (values != name, values == name))
        order = np.random.default_rng(0).permutation(others)
        train, dev = np.split(order, [int((1 - config.dev_share) * len(others))])
        splits = [Split(features, np.sort(rows), labels[np.sort(rows)]) for rows in (train, dev, test)]
        yield Fold(name, splits[0], splits[1], splits[2], manifest)


def _held(features: np.ndarray, pool: Pool) -> np.ndarray:
    """Copy training features into memory where they are few enough."""
    held = pool.held(features)
    where = "read from the disk at each step" if held is features else "in memory"
    pool.log(f"{features.nbytes / 1e9:.2f} GB of training features, {where}")
    return held


def _fit(task: Any, folds: list[Fold], read: Read, dtype: torch.dtype, job: Job, evaluation: Evaluation) -> Fitted:
    """Train the heads of all folds and learning rates."""
    config: Config = job.config
    _, layers, dim = folds[0].train.features.shape
    shape = HeadShape(layers, dim, task.config.projector_dim, task.sizes)
    training = Training(
        config.learning_rates, config.steps, config.batch, config.eval_every, clip_norm=config.clip_norm
    )
    groups = [_group(fold, number, config, evaluation.seed) for number, fold in enumerate(folds)]
    label = f"{job.name}: {len(groups) * len(config.learning_rates)} heads"
    return fit(groups, shape, training, read=read, dtype=dtype, device=evaluation.device, label=label)


def _forwards_alone(fold: Fold, config: Config) -> int:
    """Utterances that would go through the upstream if each head of a fold were trained by itself."""
    evaluations = -(-config.steps // config.eval_every)
    each = config.steps * config.batch + evaluations * len(fold.dev.rows) + len(fold.test.rows)
    return len(config.learning_rates) * each


def _group(fold: Fold, number: int, config: Config, seed: int) -> Group:
    train, weights = fold.train, None
    if config.sampling == "shuffled":
        batches = shuffled(len(train.rows), config.batch, [seed, number])
    else:
        if train.slots.shape[1] > 1:
            raise ValueError(
                f"superb.sampling: 'balanced' needs one label per utterance, not {train.slots.shape[1]}; use 'shuffled'"
            )
        batches = balanced(train.slots[:, 0], config.batch, [seed, number])
        # The published protocol draws dev as it draws training; this is what comes out in the mean.
        weights = 1.0 / np.bincount(fold.dev.slots[:, 0])[fold.dev.slots[:, 0]]
    return Group(train, fold.dev, seed, batches, weights)


@torch.no_grad()
def _predict(task: Any, fold: Fold, read: Read) -> dict[str, str]:
    """Return what the task's own head says of each utterance of test; the mean of a single frame is that frame."""
    found: list[str] = []
    for start in range(0, len(fold.test.rows), _CHUNK):
        x = read(fold.test.gather(np.arange(start, min(start + _CHUNK, len(fold.test.rows)))))
        lengths = torch.ones(len(x), dtype=torch.int64, device=x.device)
        found += task.eval().predict(EncoderOutput(list(x.unsqueeze(2).unbind(dim=1)), lengths))
    return {fold.tested.ids[int(row)]: said for row, said in zip(fold.test.rows, found, strict=True)}


def _dev(fitted: Fitted, config: Config, log: Callable[[str], None]) -> dict[float, float]:
    """Accuracy on dev by learning rate, in the mean over folds; those that came to nothing are named and left out."""
    found = {}
    for number, rate in enumerate(config.learning_rates):
        if torch.isfinite(fitted.losses[number]).all():
            found[rate] = float(fitted.accuracies[number].mean())
        else:
            log(f"learning rate {rate:g}: the loss was never finite; it is left out")
    return found


def _more(folds: list[Fold], values: list[dict[str, float]], steps: list[int], config: Config) -> dict[str, Any]:
    """What else belongs to the score."""
    more: dict[str, Any] = {
        "utterances": {part: sum(len(getattr(f, part).rows) for f in folds) for part in ("train", "dev", "test")}
    }
    if len(folds) > 1:
        more["folds"] = {fold.name: {**one, "step": step} for fold, one, step in zip(folds, values, steps, strict=True)}
        if len(config.learning_rates) > 1:
            more["variant"] = _ONE_RATE
    if config.crops:
        more["crops"] = config.crops
        more["variant"] = (
            f"{config.crops} crops of {config.crop_seconds:g} s of each utterance, where the protocol draws a new one each time"
        )
    return more
