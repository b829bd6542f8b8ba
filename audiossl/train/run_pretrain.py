"""Pretraining from a recipe: encoder + objective + data, into an experiment folder."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from audiossl.train.experiment import (
    CODEBOOK,
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
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from audiossl.contracts import Batch
    from audiossl.data.loader import BadRecordings, LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import World
    from audiossl.train.loop import Evaluate
    from audiossl.units.recipe import UnitsConfig

Tables = dict[str, Any]
_CALIBRATION_BATCHES = 20


def pretrain(
    recipe: str,
    *,
    out: Path,
    data: Path | None = None,
    dev: Path | None = None,
    init: str | None = None,
    overrides: Tables | None = None,
    resume: bool = False,
    device: str = "auto",
) -> dict[str, float]:
    """Pretrain an encoder and return the metrics of the last step.

    recipe: a TOML file or a shipped name. data, dev: Kaldi directories (dev is optional, for a loss on unseen audio). init: an
    encoder to start from. overrides: tables laid over the recipe. Raises ValueError for everything that a user can mend.
    """
    from audiossl.interop.encoder import require_methods
    from audiossl.train.distributed import join_world

    run = {"data": data, "dev": dev, "init": init}
    tables = gather_tables(recipe, out, overrides or {}, run, resume=resume)
    tables, parts = resolve(tables, sections(), recipe)
    refuse_changes(out, tables, sections())
    _refuse_unread(parts, (overrides or {}).get("units", {}))
    encoder, objective = parts["encoder"][0], parts["objective"][0]
    require_methods(encoder, objective.encoder_needs, f"objective {tables['objective']['name']}")
    if "data" not in tables["run"]:
        raise ValueError(f"{recipe}: no data is given; add --data DIR")
    with join_world(device) as world, only_run(out, world):
        return _run(tables, parts, out, world, Ledger(world.device), resume=resume)


def sections() -> Sections:
    """Return the tables of a pretraining recipe."""
    from audiossl.data.loader import LoaderConfig
    from audiossl.train.loop import TrainConfig
    from audiossl.train.optim import OptimConfig
    from audiossl.units.recipe import UnitsConfig

    plain = {"data": LoaderConfig, "optim": OptimConfig, "train": TrainConfig, "units": UnitsConfig}
    return Sections({"encoder": "encoders", "objective": "objectives"}, plain, optional=("units",))


def _run(
    tables: Tables, parts: dict[str, Any], out: Path, world: World, ledger: Ledger, *, resume: bool
) -> dict[str, float]:
    import torch

    from audiossl.data.loader import BadRecordings
    from audiossl.train.loop import hash_seed, train

    with main_first(world):
        manifests = open_data(tables)
    if world.main and "units" in parts:
        _make_units(parts, manifests, out, str(world.device))
    world.barrier()
    config, reading = parts["train"], parts["data"]
    torch.manual_seed(hash_seed(config.seed))
    encoder_class, encoder_config = parts["encoder"]
    encoder = encoder_class(encoder_config)
    objective_class, objective_config = parts["objective"]
    objective = objective_class.from_data(encoder, objective_config, manifests[0].path)
    with main_first(world):
        for manifest in manifests:
            require_files(manifest, objective.needs)
    if world.main:
        _check_units(manifests, objective.needs, parts)
    world.barrier()
    training = objective.labelled(manifests[0]) if hasattr(objective, "labelled") else manifests[0]
    hidden = len(manifests[0]) - len(training)
    if world.main and hidden:
        _say(f"{manifests[0].path}: {hidden} of {len(manifests[0])} utterances show no label and are left out")
    stream = stream_of(training, objective, reading, sample_rate=encoder.sample_rate, seed=config.seed)
    _refuse_lonely(training, reading, getattr(objective, "least_utterances", 1), world.size)
    _refuse_lonely(training, reading, getattr(objective, "least_in_process", 1), 1)
    for manifest in manifests[1:]:
        _check_dev(manifest, objective, reading)
    if not _has_checkpoint(out):
        unusable = BadRecordings(reading.max_bad_fraction, len(training))
        _start(encoder, tables["run"].get("init"), stream, unusable, seed=config.seed)
        _start_heads(objective, tables["run"].get("init"), world)
    return train(
        objective,
        stream,
        experiment=out,
        config=config,
        optim=parts["optim"],
        world=world,
        sample_rate=encoder.sample_rate,
        evaluate=_dev_loss(manifests[1], reading, encoder.sample_rate, world) if len(manifests) > 1 else None,
        bad=BadRecordings(reading.max_bad_fraction, len(training)),
        ledger=ledger,
        # The folder comes last: a run that could not begin leaves nothing that a second try would trip over.
        begin=partial(write_config, out, tables),
        notes=[*describe_batches(training, reading, seed=config.seed), *_overfull(parts)] if world.main else (),
        resume=resume,
    )


def _overfull(parts: dict[str, Any]) -> list[str]:
    """Warn where batches are filled as if utterances were cropped to less than the objective leaves of them; more is right for several crops."""
    counted, left = parts["data"].crop_duration, getattr(parts["objective"][1], "crop_duration", None)
    if counted is None or left is None or counted >= left:
        return []
    line = f"warning: data.crop_duration {counted:g} s is below objective.crop_duration {left:g} s: batches of utterances longer than the former"
    return [f"{line} hold up to {left / counted:.1f} times data.batch_seconds; give at least {left:g}"]


def _check_dev(manifest: Manifest, objective: Any, reading: LoaderConfig) -> None:
    """ValueError, before training, where the development data could give no loss."""
    from audiossl.data.whole import as_whole

    if hasattr(objective, "labelled") and not len(objective.labelled(manifest)):
        raise ValueError(
            f"{manifest.path}: no utterance shows a label that the training data have, so there would be no loss; "
            "leave out --dev, or give other utterances of the classes to train on"
        )
    _refuse_lonely(manifest, as_whole(reading), getattr(objective, "least_utterances", 1), 1, dev=True)
    if getattr(objective, "group_rows", 0):
        _refuse_short(manifest, as_whole(reading), objective.group_rows)


def _refuse_short(manifest: Manifest, reading: LoaderConfig, rows: int) -> None:
    """ValueError where no batch of development data holds as many utterances as are compared at once."""
    from audiossl.data.loader import make_sampler

    sizes = make_sampler(manifest, reading, seed=0, shuffle=False).batch_sizes
    if sizes.max() < rows:
        raise ValueError(
            f"{manifest.path}: all {len(sizes)} batches, of {int(sizes.max())} utterances at most, do not fill a group of {rows}, "
            "and each process scores by itself; raise data.batch_seconds, lower group_size, or leave out --dev"
        )


def _refuse_lonely(manifest: Manifest, reading: LoaderConfig, least: int, processes: int, *, dev: bool = False) -> None:
    """ValueError where some batches hold fewer than the `least` utterances, over all processes, that an objective compares with one another."""
    from audiossl.data.loader import make_sampler

    sampler = make_sampler(manifest, reading, seed=0, shuffle=not dev)
    few = int((sampler.batch_sizes * processes < least).sum())
    if not few:
        return
    compared = f"and this objective compares {least} or more"
    if len(sampler) < least:
        raise ValueError(f"{manifest.path}: {len(sampler)} utterance, {compared}; add data")
    if 0 < reading.batch_utterances < least:
        raise ValueError(f"data.batch_utterances: {reading.batch_utterances} in a batch, {compared}; raise it")
    where = f" of {manifest.path}, of which nothing is left out" if dev else ""
    stretch = reading.augment.longest_stretch if reading.augment else 1.0
    cure = f"give at least {math.ceil(10 * least * sampler.longest * stretch) / 10:g}"
    cure += " or set data.crop_duration" if reading.crop_duration is None else ""
    raise ValueError(
        f"data.batch_seconds: {reading.batch_seconds:g} s are 1 utterance in {few} of {len(sampler.batch_sizes)} batches{where}, {compared}; {cure}"
    )


def _reads(parts: dict[str, Any], config: UnitsConfig) -> bool:
    """Whether the objective reads the units of the [units] table."""
    return not set(config.names).isdisjoint(getattr(parts["objective"][1], "labels", ()))


def _refuse_unread(parts: dict[str, Any], given: Tables) -> None:
    """ValueError where `given`, the [units] of the command line, names units that the objective would not read."""
    if "name" in given and not _reads(parts, parts["units"]):
        names = json.dumps(parts["units"].names)
        raise ValueError(f"units.name: {given['name']} is not among objective.labels; add --objective.labels '{names}'")


def _make_units(parts: dict[str, Any], manifests: list[Manifest], out: Path, device: str) -> None:
    """Fit and apply the units of the recipe's [units] table where the data directories lack them."""
    from audiossl.units.apply import labelling
    from audiossl.units.recipe import ensure_units

    config: UnitsConfig = parts["units"]
    if not _reads(parts, config):
        _say(f"units.name: {' '.join(config.names)} is not among objective.labels, so these units are not made")
        return
    folders, reading = [manifest.path for manifest in manifests], parts["data"]
    with labelling(folders, _say):
        ensure_units(
            folders,
            config,
            out / CODEBOOK,
            label_rate=getattr(parts["objective"][1], "label_rate", None),
            max_bad_fraction=reading.max_bad_fraction,
            num_workers=reading.num_workers,
            allow_commands=reading.allow_commands,
            device=device,
            log=_say,
        )


def _check_units(manifests: list[Manifest], needs: tuple[str, ...], parts: dict[str, Any]) -> None:
    """Stop before training on labels that mean nothing; those of the [units] table were checked when they were made."""
    from audiossl.data.kaldi import UNITS
    from audiossl.units.guards import check_same_codebook, check_units

    for name in (need.removeprefix(f"{UNITS}/") for need in needs if need.startswith(f"{UNITS}/")):
        for manifest in manifests:
            check_same_codebook(manifests[0], manifest, name)
            if "units" not in parts or name not in parts["units"].names:
                check_units(manifest, name, log=_say)


def _start(
    encoder: Any,
    init: str | None,
    stream: Callable[[Iterable[int]], Iterator[Batch]],
    bad: BadRecordings,
    *,
    seed: int,
) -> None:
    """Give a new encoder the weights of another one, or measure on the first batches what it must know of the data.

    bad: counts the recordings that could not be used for that. seed: of the random weights that an encoder inside this one may begin with.
    """
    from audiossl.data.loader import usable
    from audiossl.interop.encoder import copy_inside, copy_weights

    if init is not None:
        copy_weights(init, encoder)
    elif getattr(encoder, "init", ""):
        copy_inside(encoder, seed=seed)
    elif hasattr(encoder, "calibrate"):
        # They are the first batches of training too, which names what it leaves out.
        batches = usable(stream(range(_CALIBRATION_BATCHES)), bad, lambda _line: None)
        encoder.calibrate((batch["waveform"], batch["waveform_lengths"]) for batch in batches)


def _start_heads(objective: Any, init: str | None, world: World) -> None:
    """Give a new objective the heads of an import, or those that it takes of its own kind, where they fit, and say whether they did."""
    from audiossl.interop.checkpoint import load_weights
    from audiossl.interop.encoder import RANDOM, open_source
    from audiossl.interop.experiments import copy_heads

    lines = copy_heads(init, objective) if init is not None else []
    if init is not None and not init.startswith(RANDOM) and hasattr(objective, "start_from"):
        checkpoint, tables = open_source(init)
        if tables.get("objective", {}).get("name") == type(objective).__module__.rpartition(".")[2]:
            said = objective.start_from(load_weights(checkpoint))
            lines = [*lines, f"{init}: {said}"] if said else lines
    for line in lines if world.main else []:
        _say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _has_checkpoint(out: Path) -> bool:
    from audiossl.interop.checkpoint import latest_checkpoint

    return latest_checkpoint(out) is not None


def _dev_loss(manifest: Manifest, reading: LoaderConfig, sample_rate: int, world: World) -> Evaluate:
    """Return a function that measures the objective's loss and metrics on unseen audio, with the same masks every time; processes share the batches."""
    from audiossl.data.loader import BadRecordings
    from audiossl.data.whole import one_epoch
    from audiossl.train.sums import sum_up

    bad = BadRecordings(reading.max_bad_fraction, len(manifest))

    def measure(module: Any, say: Callable[[str], None]) -> dict[str, float]:
        def note(found: list[tuple[str, str]]) -> None:
            for line in bad.add(found):
                say(line)

        batches = one_epoch(manifest, module, reading, sample_rate=sample_rate, first=world.rank, step=world.size)
        return sum_up(module, batches, world, note)

    return measure
