"""Checkpoints: whole or absent, whatever happens while they are written.

`<experiment>/checkpoints/step_00001000/` holds `model.safetensors` (weights) and `state.pt` (optimiser and position, loadable with
`weights_only=True`). A checkpoint is written beside its place and renamed into it, so a kill leaves the last one untouched.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from audiossl.data.json_files import read_json_table
from audiossl.files import full_disk, whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

WEIGHTS = "model.safetensors"
STATE = "state.pt"


def save_checkpoint(
    experiment: Path, step: int, weights: dict[str, Tensor], state: dict[str, Any], *, keep: int
) -> Path:
    """Write the checkpoint of `step`, then drop all but the newest `keep` and the best."""
    import torch
    from safetensors.torch import save_file

    folder = experiment / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"step_{step:08d}"
    partial = folder / f".{place.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, partial / WEIGHTS)
        torch.save(state, partial / STATE)
        for name in (WEIGHTS, STATE):
            _sync(partial / name)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError":
            cure = "free some disk" if full_disk(error) is not None else "see that nothing else writes there"
            raise ValueError(f"{place}: cannot be written ({error}); {cure}, then --resume") from error
        raise
    shutil.rmtree(place, ignore_errors=True)
    partial.replace(place)
    _sync(folder)
    _drop_old(folder, keep=keep, best=best_step(experiment))
    return place


def list_checkpoints(experiment: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path.parent for path in (experiment / "checkpoints").glob(f"step_*/{WEIGHTS}"))


def latest_checkpoint(experiment: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    found = list_checkpoints(experiment)
    return found[-1] if found else None


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint folder was written at."""
    return int(checkpoint.name.removeprefix("step_"))


def chosen_checkpoint(experiment: Path) -> Path:
    """Return the checkpoint to use: the best on the development data where that was measured, else the newest."""
    step = best_step(experiment)
    if step is not None and (experiment / "checkpoints" / f"step_{step:08d}" / WEIGHTS).is_file():
        return experiment / "checkpoints" / f"step_{step:08d}"
    newest = latest_checkpoint(experiment)
    if newest is None:
        raise ValueError(f"{experiment}: has no checkpoint yet; train it, or choose another experiment")
    return newest


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint folder, by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(checkpoint / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{checkpoint / WEIGHTS}: is damaged ({error}); delete that folder and --resume") from error


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Optimiser state and position of a checkpoint folder; nothing in it is executed."""
    import pickle

    import torch

    try:
        state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint / STATE}: is damaged; delete that folder and --resume") from error
    return state


def restore(checkpoint: Path, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Give a module and its optimiser what they were saved as, and return the rest of the state; ValueError where they are others now."""
    weights, state = load_weights(checkpoint), load_state(checkpoint)
    expected: dict[str, Tensor] = getattr(module, "state_to_save", module.state_dict)()
    differing = sorted(expected.keys() ^ weights.keys())
    fault = f"{len(differing)} tensors differ, such as {differing[0]!r}" if differing else ""
    try:
        module.load_state_dict(weights, strict=False)
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        fault = fault or str(error).splitlines()[-1].strip()
    if fault:
        raise ValueError(
            f"{checkpoint}: does not fit what the recipe and the data make now: {fault}; put back what was changed, or "
            "choose another --out"
        )
    return state


def best_step(experiment: Path) -> int | None:
    """Step that scored best on the development data, if that was measured."""
    return best_mark(experiment).get("step")


def best_mark(experiment: Path) -> dict[str, Any]:
    """Return what `mark_best` wrote: `step` and its scores; nothing where none was measured."""
    path, cure = experiment / "best.json", "remove it, and the newest checkpoint is taken"
    mark = read_json_table(path, cure) if path.is_file() else {}
    if not isinstance(mark.get("step", 0), int):
        raise ValueError(f"{path}: step is {mark['step']!r}, not a whole number; {cure}")
    return mark


def mark_best(experiment: Path, step: int, score: Mapping[str, Any]) -> None:
    """Record that `step` scored best on the development data."""
    with whole_file(experiment / "best.json") as partial:
        partial.write_text(json.dumps({"step": step, **score}) + "\n")


def _drop_old(folder: Path, *, keep: int, best: int | None) -> None:
    complete = sorted(path.parent for path in folder.glob(f"step_*/{WEIGHTS}"))
    for path in complete[:-keep] if keep else []:
        if best is None or path.name != f"step_{best:08d}":
            shutil.rmtree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
