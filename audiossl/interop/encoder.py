"""Encoders by name or description: built from a recipe's `[encoder]` table, or loaded from where they were trained.

A source is an experiment folder, one of its checkpoint folders, or a name: the path of an experiment below one of `search_roots()`
(`hubert/it2`, say), among them the `exp` folders of the recipes in a checkout.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shlex
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl import config as configuration
from audiossl import registry
from audiossl.data.kaldi import TEXT
from audiossl.interop.checkpoint import WEIGHTS, chosen_checkpoint, load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from audiossl.encoders._ssl_speaker import SSLSpeakerEncoder
    from audiossl.nn.ssl_encoder import SSLEncoder

CONFIG = "config.toml"
RANDOM = "random:"
UPSTREAM = "s3prl:"
INSIDE = "{experiment}/"
OWN = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)(?:@(?P<checkpoint>.+))?")
"""A class of the user's own: `FILE.py:CLASS`, or `FILE.py:CLASS@CHECKPOINT`."""


def build_encoder(table: dict[str, Any], where: str = "encoder") -> SSLEncoder:
    """Build an encoder with random weights from its `[encoder]` table (`name` and the keys of its Config)."""
    cls, config = named_config("encoders", table, where)
    encoder: Any = cls(config)
    # Kind of plug-in to complete table: what tells encoders of the same weights apart, see `interop.digest`.
    encoder.built_from = {"encoders": {"name": table["name"], **configuration.to_table(config)}}
    return encoder  # type: ignore[no-any-return]


def named_config(kind: str, table: dict[str, Any], where: str) -> tuple[Any, Any]:
    """Return the plug-in class that a table names, and its Config built from the table's other keys."""
    if "name" not in table:
        raise ValueError(f"{where}: no 'name'; known {kind}: {', '.join(registry.names(kind))}")
    cls = registry.get(kind, table["name"])
    values = {key: value for key, value in table.items() if key != "name"}
    config = configuration.build(cls.Config, values, where)
    # One that holds an encoder may only say from which experiment: what that is like is written out here, for good.
    return cls, config.completed(_encoder_table) if hasattr(config, "completed") else config


def require_methods(encoder: type, needs: Sequence[str], where: str) -> None:
    """Raise ValueError where an encoder class lacks a method that something on top of it calls: an embedding has no frames to mask, say."""
    if _has(encoder, needs):
        return
    fitting = [name for name in registry.names("encoders") if _has(registry.get("encoders", name), needs)]
    raise ValueError(
        f"{where}: {encoder.__name__} has no {' and '.join(needs)}; encoders that have: {', '.join(fitting)}"
    )


def require_layer(layer: int, num_layers: int, source: str) -> None:
    """Raise ValueError where an encoder of so many blocks has no such layer; 0 is the input of the first."""
    if not 0 <= layer <= num_layers:
        raise ValueError(f"layer {layer}: {source} has layers 0 to {num_layers}; choose one of them")


def stops_early(encoder: Any) -> bool:
    """Whether an encoder can be told how many blocks to run; those of speakers can only run to their end."""
    return "num_layers" in inspect.signature(encoder.forward).parameters


def _has(encoder: type, needs: Sequence[str]) -> bool:
    return all(hasattr(encoder, need) for need in needs)


def load_encoder(source: str | Path, *, seed: int = 0, own_code: bool = False) -> SSLEncoder:
    """Load a trained encoder, in eval mode; a fine-tuned experiment comes with its adapters in place.

    `random:SOURCE` is the encoder of SOURCE with random weights drawn from `seed`: what an untrained one knows.
    A checkpoint of another package is read as it is (see `interop.formats`), and `s3prl:NAME` is an upstream of s3prl.
    own_code: whether `FILE.py:CLASS` may be run (see `OWN`): where the user named the source, never where a file did.
    """
    name = str(source)
    if own_code and OWN.fullmatch(name):
        from audiossl.interop.own_upstream import load_own

        own: Any = load_own(name, seed=seed)
        return own  # type: ignore[no-any-return]
    if name.startswith(RANDOM):
        return _random_like(name.removeprefix(RANDOM), seed)
    if name.startswith(UPSTREAM):
        from audiossl.interop.s3prl_upstream import load_upstream

        upstream: Any = load_upstream(
            name.removeprefix(UPSTREAM)
        )  # a `contracts.Encoder`, without parts to train or adapt
        return upstream  # type: ignore[no-any-return]
    if is_foreign(Path(source)):
        if Path(source).suffix == ".py":
            raise _not_imported(source)
        from audiossl.interop.experiments import load_foreign

        return load_foreign(Path(source))
    checkpoint, tables = open_source(source)
    return load_from(checkpoint, tables)


def load_from(checkpoint: Path, tables: dict[str, Any]) -> SSLEncoder:
    """Load the encoder of a checkpoint folder, described by its experiment's tables."""
    partial = "adapter" in tables and not _saves_all(tables)
    encoder = (
        load_base(checkpoint.parent.parent, tables, filled=True) if "adapter" in tables else _build_evaluated(tables)
    )
    if "adapter" in tables:
        cls, config = named_config("adapters", tables["adapter"], "adapter")
        before = encoder.state_dict().keys()
        cls(config).insert(encoder)
        if encoder.state_dict().keys() != before:  # one that only says what trains is no part of the encoder
            of: Any = encoder
            table = {"name": tables["adapter"]["name"], **configuration.to_table(config)}
            of.built_from = {**of.built_from, "adapters": table}
    fill(encoder, checkpoint, attribute=evaluated_part(tables), partial=partial)
    encoder.eval()
    return encoder


def load_base(experiment: Path, tables: dict[str, Any], *, filled: bool = False) -> SSLEncoder:
    """Return the encoder that a fine-tuned experiment starts from: `run.init` in the shape that its `[encoder]` table says.

    filled: whether a checkpoint is loaded into it next; where that holds all of the encoder, `run.init` may be gone, and weights are random until then.
    ValueError where it is gone, or its weights are not those that the experiment was trained on, unless the checkpoints hold all of the encoder.
    """
    run = tables["run"]
    encoder = build_encoder(tables["encoder"])
    whole = _saves_all(tables)
    if filled and whole:
        return encoder
    require_base(experiment, run["init"])
    copy_weights(run["init"], encoder, seed=run["init_seed"])
    # Recognisers of other packages come with their encoder and without a hash of it.
    if "init_hash" in run and not whole and weights_hash(encoder) != run["init_hash"]:
        raise ValueError(
            f"{experiment / CONFIG}: run.init: the weights of {run['init']} are not those that this was trained on; put them back, or fine-tune again"
        )
    return encoder


def require_base(experiment: Path, init: str) -> None:
    """ValueError where what a fine-tuned experiment was trained on is gone. init: its `run.init`."""
    name = init.removeprefix(RANDOM)
    if is_foreign(Path(name)):
        return
    try:
        find_source(name)
    except MissingSourceError as error:
        raise ValueError(
            f"{experiment}: needs the encoder that it was trained on, {name}, which is not there; put it back, or correct run.init in {experiment / CONFIG}"
        ) from error


def _saves_all(tables: dict[str, Any]) -> bool:
    """Whether checkpoints of a fine-tuned experiment hold all of the encoder."""
    return bool(getattr(registry.get("adapters", tables["adapter"]["name"]), "saves_all", False))


def copy_weights(source: str | Path, encoder: SSLEncoder, *, seed: int = 0) -> None:
    """Give `encoder` the weights of a source; ValueError where it is another one or has another shape. seed: see `load_encoder`."""
    loaded: Any = load_encoder(source, seed=seed)
    loaded = getattr(loaded, "inside", loaded)
    try:
        encoder.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise ValueError(_misfit(str(source), loaded, encoder, "the recipe's [encoder]")) from error


def copy_inside(encoder: SSLSpeakerEncoder, *, seed: int = 0) -> None:
    """Give an encoder that holds another one the weights that its `init` names for that; ValueError where they do not fit."""
    loaded = load_encoder(encoder.init, seed=seed)
    try:
        encoder.start_inside(loaded.state_dict())
    except RuntimeError as error:
        raise ValueError(_misfit(encoder.init, loaded, encoder.encoder, "[encoder.encoder]")) from error


def _misfit(source: str, loaded: nn.Module, encoder: nn.Module, table: str) -> str:
    """Say in a line why what a source holds is not what `encoder` wants, and what to start from instead. table: where the latter is described."""
    theirs, wanted = (type(module).__module__.rpartition(".")[2] for module in (loaded, encoder))
    if theirs != wanted:
        return f"{source}: its encoder is {theirs}, {table} is {wanted}; start from one that is {wanted}"
    there, here = loaded.state_dict(), encoder.state_dict()
    if any("_adapter." in name and name not in here for name in there):
        _, tables = open_source(source)
        if "adapter" in tables:
            began = tables["run"]["init"]
            return (
                f"{source}: has adapters; start from {began} (what it was started from), or from one fine-tuned in full"
            )
    # Adapters that only `encoder` has keep the weights that they began with.
    names = [name for name in there if name not in here or there[name].shape != here[name].shape]
    names += [name for name in here if name not in there and "_adapter." not in name]
    shapes = [list(part[names[0]].shape) if names[0] in part else "absent" for part in (there, here)]
    such = f"{len(names)} tensors differ, such as {names[0]} ({shapes[0]} there, {shapes[1]} here)"
    options = _differing(loaded, encoder, f"--{table[table.index('[') + 1 : -1]}")
    return f"{source}: does not fit {table}: {such}; make them agree{options and f': {options}'}"


def _differing(loaded: nn.Module, encoder: nn.Module, prefix: str) -> str:
    """Return the options that make a configuration that of `loaded`; "" where one of them has none. Rates, which are of no shape, may differ."""
    configs = [getattr(module, "config", None) for module in (loaded, encoder)]
    there, here = (configuration.to_table(config) if is_dataclass(config) else {} for config in configs)
    keys = [key for key, value in there.items() if value != here.get(key, value) and not isinstance(value, float)]
    return " ".join(f"{prefix}.{key} {_option(there[key])}" for key in keys)


def _option(value: Any) -> str:
    """Spell a value for a shell."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _encoder_table(source: str) -> dict[str, Any]:
    if source.startswith(UPSTREAM):
        return {"name": "audiossl.interop.s3prl_upstream:HubUpstream", "spec": source.removeprefix(UPSTREAM)}
    table: dict[str, Any] = open_source(source.removeprefix(RANDOM))[1]["encoder"]
    return table


def is_foreign(path: Path) -> bool:
    """Whether a path exists that is no experiment and no checkpoint in one."""
    return path.is_file() or ((path / "config.json").is_file() and not (path / CONFIG).is_file())


def _random_like(source: str, seed: int) -> SSLEncoder:
    import torch

    tables = open_source(source)[1]
    trained = load_encoder(source)
    torch.manual_seed(seed)
    encoder = _build_evaluated(tables)
    # Some buffers are measured on data before training (the mean and deviation of the filterbank); the running statistics of batch
    # norms belong to the trained weights and would spoil random ones.
    measured = dict(trained.named_buffers())
    running = {
        f"{name}.{buffer}"
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._NormBase)  # noqa: SLF001 - the base of all batch norms
        for buffer, _ in module.named_buffers(recurse=False)
    }
    for name, buffer in encoder.named_buffers():
        if name not in running:
            buffer.copy_(measured[name])
    encoder.eval()
    return encoder


def evaluated_part(tables: dict[str, Any]) -> str:
    """Attribute of the trained module that is the encoder to use: `evaluated` of an objective that says so, such as a teacher.

    Empty where the objective puts parts of its own on the encoder: these have the same names in both.
    """
    if "objective" not in tables:
        return "encoder"
    objective = registry.get("objectives", tables["objective"]["name"])
    return "" if hasattr(objective, "evaluated_encoder") else str(getattr(objective, "evaluated", "encoder"))


def _build_evaluated(tables: dict[str, Any]) -> SSLEncoder:
    """Build what an experiment is judged by, with random weights: its encoder, under what its objective puts on it."""
    encoder = build_encoder(tables["encoder"])
    if evaluated_part(tables):
        return encoder
    objective, config = named_config("objectives", tables["objective"], "objective")
    whole: Any = objective.evaluated_encoder(encoder, config)
    whole.built_from = encoder.built_from
    return whole  # type: ignore[no-any-return]


def fill(encoder: SSLEncoder, checkpoint: Path, *, attribute: str = "encoder", partial: bool = False) -> None:
    """Load the tensors below `attribute` of a checkpoint, or of none those of `encoder`'s own parts; `partial`: it may hold only some of them."""
    parts = (f"{attribute}.",) if attribute else tuple(f"{name}." for name, _ in encoder.named_children())
    weights = load_weights(checkpoint)
    prefix = f"{attribute}." if attribute else ""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(parts)}
    try:
        missing, unexpected = encoder.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: does not fit its {CONFIG}: {str(error).splitlines()[-1].strip()}") from error
    faults = unexpected if partial else [*missing, *unexpected]
    if faults:
        raise ValueError(
            f"{checkpoint}: does not fit its {CONFIG}: {len(faults)} tensors differ, such as {faults[0]!r}"
        )


def open_source(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint folder that a source means and the configuration of its experiment."""
    path = find_source(source)
    if is_foreign(path):
        raise _not_imported(source)
    if (path / CONFIG).is_file():
        return chosen_checkpoint(path), experiment_tables(path)
    experiment = path.parent.parent
    if (path / WEIGHTS).is_file() and (experiment / CONFIG).is_file():
        return path, experiment_tables(experiment)
    own = "; a class of your own in it is named FILE.py:CLASS" if any(path.glob("*.py")) else ""
    raise ValueError(f"{path}: is neither an experiment (no {CONFIG}) nor a checkpoint in one (no {WEIGHTS}){own}")


def experiment_tables(experiment: Path) -> dict[str, Any]:
    """Configuration of an experiment. One that holds its own encoder names it by `INSIDE`, and may be moved."""
    tables = configuration.load_toml(experiment / CONFIG)
    init = str(tables.get("run", {}).get("init", ""))
    if init.startswith(INSIDE):
        tables["run"]["init"] = str(experiment / init.removeprefix(INSIDE))
    elif init:
        tables["run"]["init"] = _seen_from(experiment, init)
    if inner := tables.get("encoder", {}).get("init"):
        tables["encoder"]["init"] = _seen_from(experiment, inner)
    task = tables.get("task", {})
    if task.get("name") == "ctc":
        task.setdefault("column", TEXT)  # recognisers that earlier versions imported do not say it
    return tables


def _seen_from(experiment: Path, init: str) -> str:
    """Return what an experiment started from. A path relative to where it was trained also holds elsewhere, if it leads from a folder above it."""
    name = init.removeprefix(RANDOM)
    if not Path(name).exists():
        for folder in experiment.resolve().parents:
            if (folder / name).exists():
                return init.removesuffix(name) + str(folder / name)
    return init


def _not_imported(source: str | Path) -> ValueError:
    if Path(source).suffix == ".py":
        return ValueError(f"{source}: is code; name the class in it that is the upstream: {source}:CLASS")
    return ValueError(
        f"{source}: is no experiment; if it is a checkpoint of another package, run `audiossl import {source} --out EXP` and give EXP"
    )


class MissingSourceError(ValueError):
    """No experiment of that name is there."""


def find_source(source: str | Path) -> Path:
    """Return the folder of a source: the path itself, or the first one of that name below the search roots."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise _not_imported(source)
    if OWN.fullmatch(str(source)):
        raise ValueError(
            f"{source}: is code of your own, which only gives features, and only where the command line names it: "
            "to superb, features, probe, diagnose, embed and units (--encoder)"
        )
    if str(source).startswith(UPSTREAM):
        raise ValueError(
            f"{source}: is an upstream of s3prl, which only gives features: to superb, features, probe, diagnose, embed, units (--encoder) "
            "and MHFA (--encoder.init); start from an experiment, or one that `audiossl import` makes"
        )
    roots = search_roots()
    for root in roots:
        if (root / source / CONFIG).is_file():
            return root / source
    places = ", ".join(str(root) for root in roots)
    raise MissingSourceError(
        f"{source}: no such experiment or checkpoint, nor one of that name in {places}; train it first, or make one of a downloaded checkpoint by `audiossl import` "
        "(an upstream of s3prl is s3prl:NAME, one of your own FILE.py:CLASS)"
    )


def search_roots() -> list[Path]:
    """Folders in which experiments are found by name: $AUDIOSSL_EXP, ./exp, and the recipes' own in a checkout."""
    given = [Path(os.environ["AUDIOSSL_EXP"])] if "AUDIOSSL_EXP" in os.environ else []
    checkout = Path(__file__).parents[2] / "egs"
    return [*given, Path("exp"), *sorted(checkout.glob("*/*/exp"))]


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights, by name and value: what training started from, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        exact = value.detach().cpu().float() if value.is_floating_point() else value.detach().cpu()
        digest.update(exact.contiguous().numpy().tobytes())
    return digest.hexdigest()
