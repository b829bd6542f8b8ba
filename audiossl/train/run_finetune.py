"""Fine-tuning from a recipe: a trained encoder + adapter + task + labelled data, into an experiment folder."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl import config as configuration
from audiossl import registry
from audiossl.data.kaldi import keyed_by
from audiossl.train.experiment import (
    Sections,
    describe_batches,
    gather_tables,
    main_first,
    only_run,
    open_data,
    refuse_changes,
    require_files,
    resolve,
    stream_of,
    write_config,
)
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audiossl.data.directory import Source
    from audiossl.data.loader import LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import World
    from audiossl.train.fine_tune import FineTune
    from audiossl.train.loop import Evaluate

Tables = dict[str, Any]

_SCORED_TOGETHER = 32  # utterances, by a task that averages over them


def finetune(
    recipe: str,
    *,
    out: Path,
    init: str | None = None,
    data: Path | None = None,
    dev: Path | None = None,
    overrides: Tables | None = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, float]:
    """Fine-tune an encoder on labelled data and return the last step's metrics.

    init: experiment, checkpoint or name of the encoder; `random:SOURCE` starts from random weights of the same architecture, drawn from
    train.seed. Raises ValueError for everything that a user can mend.
    """
    from audiossl.interop.encoder import require_methods
    from audiossl.nn.task import Task
    from audiossl.train.distributed import join_world

    run = {"data": data, "dev": dev, "init": init}
    tables = gather_tables(recipe, out, overrides or {}, run, resume=resume)
    for key in ("data", "init"):
        if key not in tables["run"]:
            raise ValueError(f"{recipe}: no {key} is given; add --{key}")
    tables = _with_encoder(tables, out)
    tables, parts = resolve(tables, sections(), recipe)
    refuse_changes(out, tables, sections())
    if not issubclass(parts["task"][0], Task):
        raise ValueError(
            f"{recipe}: task {tables['task']['name']!r} trains no head by gradients; use `audiossl superb`"
        )
    require_methods(parts["encoder"][0], parts["task"][0].encoder_needs, f"task {tables['task']['name']}")
    if parts["finetune"].freeze_steps and parts["optim"].weight_decay:
        raise ValueError(
            f"finetune.freeze_steps: optim.weight_decay {parts['optim'].weight_decay} would move what rests; set it to 0"
        )
    if parts["finetune"].freeze_steps >= parts["train"].max_steps:
        raise ValueError(
            f"finetune.freeze_steps: {parts['finetune'].freeze_steps} of train.max_steps {parts['train'].max_steps}: the encoder would never train; "
            "lower it, or set adapter.name frozen and finetune.freeze_steps 0"
        )
    if parts["data"].crop_duration is not None:
        raise ValueError(
            f"data.crop_duration: {parts['data'].crop_duration:g} would cut nothing, since fine-tuning learns from whole utterances; "
            "leave it out, or set data.max_duration"
        )
    with join_world(device) as world, only_run(out, world):
        return _run(tables, parts, out, world, Ledger(world.device), resume=resume)


def sections() -> Sections:
    """Return the tables of a fine-tuning recipe."""
    from audiossl.data.loader import LoaderConfig
    from audiossl.train.fine_tune import FineTuneConfig
    from audiossl.train.loop import TrainConfig
    from audiossl.train.optim import OptimConfig

    plain = {"finetune": FineTuneConfig, "data": LoaderConfig, "optim": OptimConfig, "train": TrainConfig}
    return Sections({"encoder": "encoders", "adapter": "adapters", "task": "tasks"}, plain)


def load_finetuned(source: str | Path) -> tuple[FineTune, Tables]:
    """Load a fine-tuned experiment, ready to predict, with its resolved recipe."""
    from audiossl.interop.checkpoint import load_weights
    from audiossl.interop.encoder import load_base, open_source

    checkpoint, tables = open_source(source)
    if "task" not in tables:
        raise ValueError(
            f"{source}: is a pretrained encoder, which has no task; give an experiment of `audiossl finetune`"
        )
    _, parts = resolve(tables, sections(), str(source))
    experiment = checkpoint.parent.parent
    encoder = load_base(experiment, tables, filled=True)
    task_class, task_config = parts["task"]
    task = task_class.from_experiment(encoder, task_config, experiment)
    module = _assemble(encoder, task, parts)
    module.load_saved(load_weights(checkpoint))
    module.eval()
    return module, tables


def predict_all(
    module: FineTune,
    source: Source,
    config: LoaderConfig,
    *,
    on_bad: Callable[[str, str], None],
    first: int = 0,
    step: int = 1,
    max_seconds: float = 0.0,
) -> Iterator[tuple[str, Any]]:
    """Yield (utterance, prediction) over a data directory, longest utterances first; computed in float32, whatever a run trains in.

    on_bad: called with the name and the fault of each recording that cannot be used. first, step: which batches, see `one_epoch`. max_seconds: longer
    recordings are heard in windows of that length by a task that scores frames, CTC; 0: whole.
    """
    import torch

    from audiossl.contracts import read_by
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.data.whole import WholeUtterances, one_epoch
    from audiossl.train.sums import to_device
    from audiossl.train.windows import predict_in_windows

    device = next(module.parameters()).device
    least = module.task.min_frames
    grid, reads = FrameGrid.of(module.encoder), read_by(module.encoder)
    reader = WholeUtterances(grid.samples_of(least), reads, least)
    window = (
        round(max_seconds * grid.sample_rate / grid.stride) if reads is None and hasattr(module.task, "read") else 0
    )
    for batch in one_epoch(source, reader, config, sample_rate=module.encoder.sample_rate, first=first, step=step):
        for utterance, message in batch["bad"]:
            on_bad(utterance, message)
        if batch["utt_ids"]:
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                batch = to_device(batch, device)
                long = window and grid.num_frames(batch["waveform"].shape[1]) > window
                predictions = [*predict_in_windows(module, batch, grid, window)] if long else module.predict(batch)
            yield from zip(batch["utt_ids"], predictions, strict=True)


def _with_encoder(tables: Tables, out: Path) -> Tables:
    """Lay the recipe's [encoder] table over that of the encoder to start from; ValueError where that is another one, or none to fine-tune."""
    from audiossl.interop.encoder import RANDOM, load_encoder, open_source, require_base, require_methods, weights_hash
    from audiossl.interop.experiments import kind_of
    from audiossl.train.fine_tune import FineTune

    init = tables["run"]["init"]
    if "init_hash" in tables["run"]:  # of an experiment that is resumed
        require_base(out, init)
    _, source = open_source(init.removeprefix(RANDOM))
    name = source["encoder"]["name"]
    require_methods(registry.get("encoders", name), FineTune.encoder_needs, f"{init}: cannot be fine-tuned")
    wanted = tables.get("encoder", {}).get("name", name)
    if wanted != name:
        raise ValueError(
            f"{init}: its encoder is {name}, the recipe's [encoder] is {wanted}; start from one that is {wanted}"
        )
    encoder = configuration.merge(source["encoder"], tables.get("encoder", {}))
    seed = tables.get("train", {}).get("seed", 0)
    run = {"init_seed": seed, "kind": kind_of(source), **tables["run"]}  # which is asked for where init is gone
    run["init_hash"] = weights_hash(load_encoder(init, seed=run["init_seed"]))
    before = tables["run"].get("init_hash", run["init_hash"])
    if before != run["init_hash"]:
        raise ValueError(f"run.init: the weights of {init} have changed since this experiment began; start a new one")
    return {**tables, "encoder": encoder, "run": run}


def _refuse_other_labels(task: Any, out: Path, data: str) -> None:
    """ValueError where the classes or tokens of the data are no longer those that the head of this experiment has outputs for."""
    with tempfile.TemporaryDirectory() as folder:
        task.save_labels(Path(folder))
        for file in sorted(Path(folder).glob("*.json")):
            before = out / file.name
            if not before.is_file() or _words(before) == _words(file):
                continue
            old, new = ({*_words(path)} for path in (before, file))
            changes = [
                f"{word!r} is {how}"
                for how, words in (("new", new - old), ("gone", old - new))
                for word in sorted(words)[:1]
            ]
            raise ValueError(
                f"{data}: its labels are no longer those of {before}{': ' * bool(changes)}{', '.join(changes)}; put them back, or start a new experiment"
            )


def _words(path: Path) -> list[str]:
    """All strings in a file of labels, in order, but for what tells models of word pieces apart."""
    return list(_strings({**json.loads(path.read_text(encoding="utf-8")), "sha256": None}))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)


def _assemble(encoder: Any, task: Any, parts: dict[str, Any]) -> FineTune:
    from audiossl.train.fine_tune import FineTune

    adapter_class, adapter_config = parts["adapter"]
    return FineTune(encoder, adapter_class(adapter_config), task, parts["finetune"])


def _run(
    tables: Tables, parts: dict[str, Any], out: Path, world: World, ledger: Ledger, *, resume: bool
) -> dict[str, float]:
    import torch

    from audiossl.data.loader import BadRecordings
    from audiossl.interop.checkpoint import latest_checkpoint, step_of
    from audiossl.interop.encoder import load_base
    from audiossl.train.loop import hash_seed, train

    with main_first(world):
        manifests = open_data(tables)
    config = parts["train"]
    encoder = load_base(out, tables)
    torch.manual_seed(hash_seed(config.seed))
    _check_units(encoder, manifests, parts["data"], tables["run"]["init"])
    task_class, task_config = parts["task"]
    for name in task_class.superb_only:
        if getattr(task_config, name) != getattr(task_class.Config(), name):
            raise ValueError(f"task.{name}: only `audiossl superb` reads with it; leave it out")
    with main_first(world):
        task = task_class.from_data(encoder, task_config, manifests[0])
    module = _assemble(encoder, task, parts)
    if resume and (checkpoint := latest_checkpoint(out)) is not None:
        module.after_step(step_of(checkpoint))
    for manifest in manifests:
        require_files(manifest, module.needs)
    for manifest in manifests[1:]:
        _require_labels(manifest, (*module.needs, *task.label_files(task_config, "dev")), tables["task"]["name"])
        task.check_labels(task_config, manifest)

    if latest_checkpoint(out) is not None:
        with main_first(world):
            _refuse_other_labels(task, out, tables["run"]["data"])
    doubts = [line for manifest in manifests[1:] for line in task.doubts(manifest)]

    def begin() -> None:
        write_config(out, tables)
        task.save_labels(out)

    return train(
        module,
        stream_of(manifests[0], module, parts["data"], sample_rate=encoder.sample_rate, seed=config.seed),
        experiment=out,
        config=config,
        optim=parts["optim"],
        world=world,
        sample_rate=encoder.sample_rate,
        evaluate=_scorer(manifests[1], parts["data"], world) if len(manifests) > 1 else None,
        better=task.metric if len(manifests) > 1 else None,
        bad=BadRecordings(parts["data"].max_bad_fraction, len(manifests[0])),
        ledger=ledger,
        begin=begin,
        notes=[*describe_batches(manifests[0], parts["data"], seed=config.seed, crops=False), *doubts]
        if world.main
        else (),
        resume=resume,
    )


def _check_units(encoder: Any, manifests: list[Manifest], config: LoaderConfig, init: str) -> None:
    """Stop before training on other units than an encoder that reads them was pretrained on; nothing for one that reads recordings."""
    from audiossl.contracts import read_by
    from audiossl.units.guards import check_same_codebook
    from audiossl.units.reading import check_readable

    reads = read_by(encoder)
    if reads is None:
        return
    if config.augment is not None:
        raise ValueError(
            f"data.augment: changes recordings, but the encoder of {init} reads {reads.column}; leave it out"
        )
    for manifest in manifests:
        check_readable(manifest, reads, init, log=_say)
        check_same_codebook(manifests[0], manifest, reads.column.removeprefix("units/"))


def _require_labels(manifest: Manifest, names: tuple[str, ...], task: str) -> None:
    """Stop before training, not at the first evaluation, where the development data lack a file, or an utterance its label: ValueError names it."""
    for name in dict.fromkeys(names):
        if keyed_by(name) == "utterance":
            for _ in manifest.column(name):
                pass
        elif not (manifest.path / name).is_file():
            raise ValueError(
                f"{manifest.path / name}: no such file, and --dev is scored by it in the task {task}; write it, or leave out --dev"
            )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _scorer(manifest: Manifest, config: LoaderConfig, world: World) -> Evaluate:
    """Return a function that scores the predictions of a whole data directory against its labels; processes share the batches."""
    from audiossl.data.loader import BadRecordings

    bad = BadRecordings(config.max_bad_fraction, len(manifest))

    def measure(module: Any, say: Callable[[str], None]) -> dict[str, float]:
        faults: list[tuple[str, str]] = []
        predictions = predict_all(
            module, manifest, config, on_bad=lambda *fault: faults.append(fault), first=world.rank, step=world.size
        )

        def note() -> None:
            for line in bad.add(world.gather(faults)):
                say(line)

        if module.task.averages:
            scored = world.gather(list(_scored(module.task, predictions, manifest)))
            note()
            return _mean_scores(scored, manifest)
        found = world.gather(list(predictions))
        note()
        scores: dict[str, float] = module.task.evaluate(dict(found), manifest)
        return scores

    return measure


def _scored(
    task: Any, predictions: Iterator[tuple[str, Any]], manifest: Manifest
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield (utterances, their mean scores) of a task that `averages`, some at a time, so that few predictions are held."""
    while some := dict(itertools.islice(predictions, _SCORED_TOGETHER)):
        yield len(some), task.evaluate(some, manifest)


def _mean_scores(scored: list[tuple[int, dict[str, float]]], manifest: Manifest) -> dict[str, float]:
    """Mean over all utterances of what `_scored` yields; ValueError where there is none."""
    if not scored:
        raise ValueError(f"{manifest.path}: no recording can be used; mend the data")
    sums: dict[str, float] = defaultdict(float)
    for count, means in scored:
        for name, value in means.items():
            sums[name] += value * count
    total = sum(count for count, _ in scored)
    return {name: value / total for name, value in sums.items()}
