"""Pretraining from a recipe: encoder + objective + data, into an experiment folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.train.experiment import (
    Sections,
    gather_tables,
    one_epoch,
    require_files,
    resolve,
    stream_of,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import World

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
    from audiossl.train.distributed import join_world

    run = {"data": data, "dev": dev, "init": init}
    tables = gather_tables(recipe, out, overrides or {}, run, resume=resume)
    tables, parts = resolve(tables, _sections(), recipe)
    if "data" not in tables["run"]:
        raise ValueError(f"{recipe}: no data is given; add --data DIR")
    with join_world(device) as world:
        return _run(tables, parts, out, world, resume=resume)


def _sections() -> Sections:
    from audiossl.data.loader import LoaderConfig
    from audiossl.train.loop import TrainConfig
    from audiossl.train.optim import OptimConfig
    from audiossl.units.recipe import UnitsConfig

    plain = {"data": LoaderConfig, "optim": OptimConfig, "train": TrainConfig, "units": UnitsConfig}
    return Sections({"encoder": "encoders", "objective": "objectives"}, plain, optional=("units",))


def _run(tables: Tables, parts: dict[str, Any], out: Path, world: World, *, resume: bool) -> dict[str, float]:
    import torch

    from audiossl.data.manifest import Manifest
    from audiossl.interop.encoder import load_encoder
    from audiossl.train.loop import hash_seed, train

    directories = [Path(tables["run"][key]) for key in ("data", "dev") if key in tables["run"]]
    if world.main:
        write_config(out, tables)
        _make_units(parts, directories, out)
    world.barrier()
    manifests = [Manifest.open(directory) for directory in directories]
    config = parts["train"]
    torch.manual_seed(hash_seed(config.seed))
    encoder_class, encoder_config = parts["encoder"]
    encoder = encoder_class(encoder_config)
    objective_class, objective_config = parts["objective"]
    objective = objective_class.from_data(encoder, objective_config, directories[0])
    for manifest in manifests:
        require_files(manifest, objective.needs)
    stream = stream_of(manifests[0], objective, parts["data"], sample_rate=encoder.sample_rate, seed=config.seed)
    if "init" in tables["run"]:
        encoder.load_state_dict(load_encoder(tables["run"]["init"]).state_dict())
    elif hasattr(encoder, "calibrate") and not _has_checkpoint(out):
        encoder.calibrate(
            (batch["waveform"], batch["waveform_lengths"]) for batch in stream(range(_CALIBRATION_BATCHES))
        )
    return train(
        objective,
        stream,
        experiment=out,
        config=config,
        optim=parts["optim"],
        world=world,
        sample_rate=encoder.sample_rate,
        evaluate=_dev_loss(manifests[1], parts, encoder.sample_rate) if len(manifests) > 1 else None,
        resume=resume,
    )


def _make_units(parts: dict[str, Any], directories: list[Path], out: Path) -> None:
    """Fit and apply the units of the recipe's [units] table where the data directories lack them."""
    if "units" not in parts:
        return
    from audiossl.units.recipe import ensure_units

    ensure_units(directories, parts["units"], out / "units", log=lambda line: print(line, file=sys.stderr, flush=True))


def _has_checkpoint(out: Path) -> bool:
    from audiossl.interop.checkpoint import latest_checkpoint

    return latest_checkpoint(out) is not None


def _dev_loss(manifest: Manifest, parts: dict[str, Any], sample_rate: int) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that measures the objective's loss and metrics on unseen audio, with the same masks every time."""
    from audiossl.train.loop import sum_up

    def measure(module: nn.Module) -> dict[str, float]:
        return sum_up(module, one_epoch(manifest, module, parts["data"], sample_rate=sample_rate))

    return measure
