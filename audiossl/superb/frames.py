"""Tasks whose heads need every frame: one pass of the frozen upstream, from which every head takes its own step.

A head is a task with one learning rate. Each has its own optimiser, clipping and accumulation, and torch's generator is seeded from
(seed, micro-batch) before each; so it comes out bit for bit as if it were trained alone. Several tasks share a stream of frames when
their data and batches are the same: `run_together`; an utterance that one of them cannot label is left out for all. The stream counts
micro-batches from 0, and a task updates after every `accumulate` of them.

What a task (`nn.task.Task`) is asked for:

* `from_data(shape, config, manifest)`, on DIR/train; shape: dim, num_layers, stride (samples), sample_rate. Called once, heads are
  copies of it.
* `needs`: columns of DIR/train, which DIR/dev and DIR/test must have as well. `labels(piece)`: any arrays, scalars or strings by name.
  `piece` is a `data.piece.Piece`: an utterance with `start` and `duration` in seconds; its waveform may be empty, since decoding is
  skipped where frames are cached, unless the task `hears` (class attribute).
* Keys of `config` that say what it hears of its recordings, by default all: see `hearing.Hearing`. Training may take random crops; chunks are there in
  dev and test too, where predictions of their frames are joined before they are scored. Labels are asked for the piece, and in training only.
* `loss(output, batch)`: batch holds `utt_ids` and what `labels` gave, collated. `predict(output)`: one item per utterance.
* `evaluate(predictions by utterance, manifest)` and `metric`, on DIR/dev and DIR/test. Predictions are kept until the end of the directory or,
  where the task `averages` (class attribute), scored batch by batch. `examine`, `answers`: by which a score on DIR/test can be checked; see `nn.task`.
* `selects_on_test` (class attribute, absent: False): where the official protocol chooses on test. Then test is scored at every
  evaluation and its best goes to `Score.official`; and DIR/dev may be absent, with one learning rate, whose last step is the score.
* `min_frames` (class attribute): recordings of fewer are left out, for all tasks of a stream.
* `check_heard(config, manifest, unusable)` (class method, absent: nothing): raises ValueError where DIR/dev or DIR/test cannot be scored without recordings that
  cannot be used, by id with what is wrong with them. A task that has it costs a pass over the audio of both, before training.
* `not_measured(config)` (class method, absent: ""): a line for the log, of what is not measured under these settings.
* `label_files(config, part)` (class method): what `labels.py` hashes, so that heads go on only with the labels that they began with.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.superb.answers import Answers
from audiossl.superb.frame_store import CacheType, FrameStore, bytes_needed, in_use, store_place, told_size
from audiossl.superb.frame_stream import Frames, FrameViews, Split
from audiossl.superb.heads import TaskHeads, heads_folder
from audiossl.superb.hearing import Chunks, Heard, Hearing, seconds_left
from audiossl.train.distributed import World
from audiossl.train.experiment import only_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from audiossl.data.directory import Source
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.heads import Head
    from audiossl.superb.job import Evaluation, Job
    from audiossl.superb.score import Score

SHARED = ("batch_utterances", "batch_seconds", "num_workers", "max_bad_fraction", "cache_gb", "cache_dtype")
"""Keys that make the stream of frames: tasks that share one agree on them."""


@dataclass(frozen=True)
class Config:
    """How heads are trained: table `[superb]`; what SUPERB's tasks share are the defaults.

    learning_rates: one head each; dev chooses. schedule: a rate grows from 0 over `warmup_steps` and then stays, falls with the root of the step, or linearly
    to 0 at the last. optimizer: `adamw` decouples the weight decay. epsilon: what both add to the root. steps: updates. batch_utterances: of a
    micro-batch, neighbours in length, and at most `batch_seconds` of padded audio. accumulate: micro-batches per update. clip_norm: of a
    head's whole gradient, 0 is none. eval_every: in steps; there is a checkpoint at each evaluation. choose_from: the first step that may be chosen, where
    the run has it. cache_gb: disk for frames of whole
    utterances of an upstream, kept as `cache_dtype`, where those of earlier tasks make room; 0 keeps none. num_workers: processes that read audio. max_bad_fraction: share of the recordings
    that may be unusable; they are left out.
    """

    learning_rates: tuple[float, ...] = (1e-4,)
    schedule: Literal["constant", "inverse_sqrt", "linear"] = "constant"
    warmup_steps: int = 0
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    steps: int = 200_000
    batch_utterances: int = 32
    batch_seconds: float = 300.0
    accumulate: int = 1
    clip_norm: float = 1.0
    eval_every: int = 2000
    choose_from: int = 0
    cache_gb: float = 0.0
    cache_dtype: CacheType = "float32"
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        rates = [f"{rate:g}" for rate in self.learning_rates]
        if not rates or not all(0 < rate < math.inf for rate in self.learning_rates) or len(set(rates)) != len(rates):
            raise ValueError(f"superb.learning_rates: {rates} must be finite positive numbers, none of them twice")
        for name in ("steps", "batch_utterances", "accumulate", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"superb.{name}: {getattr(self, name)} is not positive")
        if min(self.weight_decay, self.clip_norm, self.cache_gb, self.warmup_steps, self.choose_from) < 0:
            raise ValueError(
                "superb: weight_decay, clip_norm, cache_gb, warmup_steps and choose_from must not be negative"
            )
        if self.schedule == "inverse_sqrt" and not self.warmup_steps:
            raise ValueError("superb.schedule: inverse_sqrt falls from the end of the warm-up; set superb.warmup_steps")

    def share(self, step: int) -> float:
        """Share of a learning rate that update `step` has, the first of which is 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "inverse_sqrt":
            return math.sqrt(self.warmup_steps / step)
        if self.schedule == "linear":
            return max(0.0, (self.steps - step) / max(1, self.steps - self.warmup_steps))
        return 1.0


def run_together(jobs: Sequence[Job], evaluation: Evaluation, out: Path) -> list[Score]:
    """Train tasks from one stream of frames of DIR/train, choose on DIR/dev, and return their scores on DIR/test, in the order given.

    Work is resumed from the last evaluation of each task, to the bit on a processor: each task has a folder of its own in `out`, so that
    tasks may be interrupted together and go on apart. Every task's cost counts all forwards of the stream while it trained; what was
    done between its last checkpoint and a kill is not counted. ValueError for all that a user can mend, as another run that trains heads of one of them there.
    """
    _check_shared(jobs)
    world = World(0, 1, torch.device(evaluation.device))
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(only_run(heads_folder(job, evaluation, out), world))
        return _run_together(jobs, evaluation, out, held)


def _run_together(jobs: Sequence[Job], evaluation: Evaluation, out: Path, held: ExitStack) -> list[Score]:
    train = Manifest.open(evaluation.data / "train")
    groups = [TaskHeads(job, evaluation, train, out) for job in jobs]
    splits = _splits(groups, train, evaluation, out / "frames", held)
    _check_heard(groups, splits)
    _tell_not_measured(jobs, evaluation)
    least = _min_frames(groups)
    views = FrameViews(
        evaluation.upstream.samples_of(least),
        needs=tuple(dict.fromkeys(name for group in groups for name in group.needs)),
        labels=tuple((group.job.name, group.labels) for group in groups),
        crop_seconds=_hearing(jobs[0]).crop_seconds,
        hears=any(group.hears for group in groups),
        min_frames=least,
    )
    numbers = range(min(group.position for group in groups), max(group.end for group in groups))
    label = f"{evaluation.upstream_name}: {' '.join(job.name for job in jobs)}"
    for taken in splits["train"].shuffled(views, numbers, label):
        active = [group for group in groups if group.position == taken.number < group.end]
        for group in active:
            group.ledger.forwards += taken.forwards
            group.take(taken.output, taken.batch)
        _measure(active, splits)
        if all(group.position >= group.end for group in groups):
            break  # before the last batch, where all heads have diverged
    return _scores(groups, splits["test"])


def _measure(active: Sequence[TaskHeads], splits: dict[str, Split]) -> None:
    """Score all heads of the tasks that are due on dev and, where the official protocol chooses there, on test; other tasks will use the frames that are kept."""
    groups = [group for group in active if group.due]
    if not groups:
        return
    dev = _values(groups, splits["dev"], active) if "dev" in splits else None
    official = [group for group in groups if group.selects_on_test]
    asked = [(group, group.alive) for group in official]
    test = dict(zip(map(id, official), _answers(asked, splits["test"], active), strict=True))
    for k, group in enumerate(groups):
        group.measured(dev[k] if dev is not None else None, test.get(id(group)))


def _values(groups: Sequence[TaskHeads], split: Split, active: Sequence[TaskHeads]) -> list[list[dict[str, float]]]:
    """What the heads of each task score on a data directory, from one pass over it."""
    return [
        [each.values() for each in answers]
        for answers in _answers([(group, group.alive) for group in groups], split, active)
    ]


def _answers(
    asked: Sequence[tuple[TaskHeads, list[Head]]], split: Split, active: Sequence[TaskHeads]
) -> list[list[Answers]]:
    """What the heads of each task say of a data directory. active: tasks that share the stream, to whose cost the frames that are kept belong too."""
    if not asked:
        return []
    said = [[Answers(head, split.manifest, split.joined) for head in heads] for _, heads in asked]
    for taken in split.once(f"{' '.join(group.job.name for group, _ in asked)} on {split.manifest.path.name}"):
        if taken.output is None:
            continue
        utterances = taken.batch["utt_ids"]
        for group in active:
            group.ledger.forwards += taken.kept
        for (group, _), answers in zip(asked, said, strict=True):
            group.ledger.forwards += taken.forwards - taken.kept
            group.ledger.alone_forwards += len(answers) * len(utterances)
            for each in answers:
                each.take(utterances, taken.output)
    return said


def _scores(groups: Sequence[TaskHeads], test: Split) -> list[Score]:
    """Score on test what was chosen on dev."""
    chosen = [group.chosen() for group in groups]
    said = _answers([(group, [head]) for group, head in zip(groups, chosen, strict=True)], test, groups)
    names = [group.job.name for group in groups]
    return [
        group.score(head, answers[0], [name for name in names if name != group.job.name], test.left_out)
        for group, head, answers in zip(groups, chosen, said, strict=True)
    ]


def _splits(
    groups: Sequence[TaskHeads], train: Manifest, evaluation: Evaluation, folder: Path, held: ExitStack
) -> dict[str, Split]:
    """Open train, test and, if it is there, dev. held: what holds the frames that are kept, until it is left."""
    config, hearing, data = groups[0].config, _hearing(groups[0].job), evaluation.data
    names = ["dev", "test"] if (data / "dev").is_dir() else ["test"]
    _check_dev(groups, data / "dev")
    manifests = {name: Manifest.open(data / name) for name in names}
    for manifest in manifests.values():
        for column in dict.fromkeys(name for group in groups for name in group.needs):
            manifest.column(column)  # or else a run would learn of it at its first evaluation
    manifests["train"] = train
    again = {"dev", "test"} if any(group.selects_on_test for group in groups) else {"dev"}
    again |= set() if hearing.crop_seconds is not None else {"train"}
    source = evaluation.upstream
    upstream = replace(source, digest=hearing.digest(source.digest))  # what is kept is of what is heard
    read: dict[str, tuple[Source, LoaderConfig]] = {}
    for name, manifest in manifests.items():
        training = name == "train"
        loading = LoaderConfig(
            batch_seconds=config.batch_seconds,
            batch_utterances=config.batch_utterances,
            min_duration=hearing.min_seconds if training else 0.0,
            crop_duration=hearing.crop_seconds if training else None,
            num_workers=config.num_workers,
            max_bad_fraction=config.max_bad_fraction,
        )
        heard = _heard(manifest, hearing, upstream, folder, loading, measured=training)
        short = int(np.sum(np.asarray(heard.durations) < loading.min_duration))
        if short == len(heard.durations):
            raise ValueError(
                f"{manifest.path}: no recording lasts {loading.min_duration:g} s; give longer ones, or set task.min_seconds"
            )
        if short:
            evaluation.log(f"{manifest.path}: {short} recordings of less than {loading.min_duration:g} s are left out")
        read[name] = heard, loading
    kept = {name: heard for name, (heard, _) in read.items() if name in again} if config.cache_gb else {}
    stores = _stores(kept, upstream, config, folder, held, evaluation.log)
    where, least = torch.device(evaluation.device), _min_frames(groups)
    return {
        name: Split(
            manifests[name], Frames(upstream, stores.get(name), where), loading, evaluation.seed, evaluation.log,
            heard=heard, min_frames=least,
        )
        for name, (heard, loading) in read.items()
    }  # fmt: skip


def _stores(
    kept: dict[str, Source],
    upstream: FeatureSource,
    config: Config,
    folder: Path,
    held: ExitStack,
    log: Callable[[str], None],
) -> dict[str, FrameStore]:
    """Open the frames of directories that are read again and again; the first, read at every evaluation, get their share of the cache first."""
    if not kept:
        return {}
    dtype, budget = config.cache_dtype, int(config.cache_gb * 1e9)
    sizes = {name: bytes_needed(heard, upstream, dtype) for name, heard in kept.items()}
    places = [store_place(folder, heard, upstream, dtype) for heard in kept.values()]
    left = held.enter_context(in_use(folder, places, sum(sizes.values()), budget))
    log(told_size(sum(sizes.values()), config.cache_gb))
    if left < min(budget, sum(sizes.values())):
        log(f"{folder}: other runs keep {(budget - left) / 1e9:.3g} GB of frames there, which are of the budget")
    stores = {}
    for name, heard in kept.items():
        stores[name] = FrameStore(folder, heard, upstream, dtype, min(left, sizes[name]))
        left -= stores[name].max_bytes
    return stores


def _heard(
    manifest: Manifest,
    hearing: Hearing,
    upstream: FeatureSource,
    folder: Path,
    loading: LoaderConfig,
    *,
    measured: bool,
) -> Source:
    """Return what is heard of a data directory. measured: what is left without silence counts; else batches are made by whole lengths."""
    found: Source = manifest
    rate = upstream.sample_rate
    if hearing.changes_audio:
        durations = np.asarray(manifest.durations)
        if measured and hearing.trim_silence:
            whole = replace(loading, crop_duration=None)
            durations = seconds_left(manifest, hearing, sample_rate=rate, folder=folder, loading=whole)
        found = Heard(manifest, hearing, durations)
    if hearing.chunk_frames:
        least = -(-upstream.min_samples // upstream.stride)
        found = Chunks.cut(found, hearing.chunk_frames, rate=rate / upstream.stride, least=least)
    return found


def _check_heard(groups: Sequence[TaskHeads], splits: dict[str, Split]) -> None:
    """Let tasks that cannot do without some recordings know before they are trained which cannot be used; resumed ones were scored before."""
    asking = [group.job for group in groups if hasattr(group.job.task_class, "check_heard") and not group.position]
    for split in (splits[name] for name in ("dev", "test") if asking and name in splits):
        unusable = split.unusable()
        for job in asking:
            job.task_class.check_heard(job.task_config, split.manifest, unusable)


def _tell_not_measured(jobs: Sequence[Job], evaluation: Evaluation) -> None:
    """Log what a task would measure under other settings."""
    for job in jobs:
        line = job.task_class.not_measured(job.task_config) if hasattr(job.task_class, "not_measured") else ""
        if line:
            evaluation.log(f"{job.name}: {line}")


def _min_frames(groups: Sequence[TaskHeads]) -> int:
    return max(int(group.job.task_class.min_frames) for group in groups)


def _hearing(job: Job) -> Hearing:
    return Hearing.of(job.task_config)


def _check_shared(jobs: Sequence[Job]) -> None:
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise ValueError(f"tasks {' '.join(names)}: one is given twice; give each once")
    first = jobs[0]
    for job in jobs[1:]:
        for key in SHARED:
            ours, theirs = getattr(first.config, key), getattr(job.config, key)
            if ours != theirs:
                raise ValueError(
                    f"superb.{key}: {first.name} has {ours}, {job.name} {theirs}; tasks that are trained together must agree: "
                    "set it for both, or train them one by one"
                )
        ours, theirs = asdict(_hearing(first)), asdict(_hearing(job))
        for key, value in ours.items():
            if value != theirs[key]:
                raise ValueError(f"task.{key}: {first.name} and {job.name} differ; train them one by one")


def _check_dev(groups: Sequence[TaskHeads], dev: Path) -> None:
    if dev.is_dir():
        return
    for group in groups:
        if not group.selects_on_test:
            raise ValueError(f"{dev}: no such directory, and {group.job.name} chooses on it; add it")
        if len(group.heads) > 1:
            raise ValueError(
                f"{dev}: no such directory to choose one of {len(group.heads)} learning rates on; add it, or give one rate"
            )
