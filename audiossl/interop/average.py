"""The mean of an experiment's last checkpoints as an experiment of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl import config as configuration
from audiossl.interop.checkpoint import list_checkpoints, load_weights, save_checkpoint, step_of
from audiossl.interop.encoder import CONFIG, evaluated_part, find_source, load_from, open_source

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def average_checkpoints(source: str, last: int, out: Path) -> list[int]:
    """Write an experiment whose encoder is the mean of the `last` newest checkpoints of another one; returns their steps.

    What counts as the encoder is what `load_encoder` gives: of DINO the teacher. Weights and running statistics of batch norms are
    summed in float64; what is no float (counts) is the newest's. Queues, heads and the optimiser are left out, so that it cannot be
    trained on. ValueError where fewer checkpoints are kept, and for a fine-tuned experiment.
    """
    experiment = find_source(source)
    if not (experiment / CONFIG).is_file():
        raise ValueError(
            f"{experiment}: is no experiment (no {CONFIG}); give the folder whose checkpoints are averaged"
        )
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: exists already; remove it or choose another --out")
    checkpoints = list_checkpoints(experiment)[-last:]
    if len(checkpoints) < last:
        raise ValueError(
            f"{experiment}: keeps {len(checkpoints)} checkpoints, fewer than {last}; train with --train.keep_checkpoints {last}, or "
            "average fewer"
        )
    _, tables = open_source(checkpoints[-1])
    if "adapter" in tables:
        raise ValueError(f"{experiment}: is fine-tuned; only pretrained encoders are averaged")
    part = evaluated_part(tables)
    names = [f"{part}.{name}" if part else name for name in load_from(checkpoints[-1], tables).state_dict()]
    steps = [step_of(checkpoint) for checkpoint in checkpoints]
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, steps[-1], _mean(checkpoints, names), {}, keep=1)
    run = {**tables.get("run", {}), "averaged": str(experiment), "averaged_steps": steps}
    configuration.write_toml(out / CONFIG, {**tables, "run": run})
    return steps


def _mean(checkpoints: list[Path], names: list[str]) -> dict[str, Tensor]:
    """Mean of the named tensors over checkpoints, one of which is in memory at a time, each in the type that it has."""
    sums: dict[str, Tensor] = {}
    newest: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        weights = load_weights(checkpoint)
        newest = {name: weights[name] for name in names}
        for name, value in newest.items():
            if value.is_floating_point():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
    means = {name: (total / len(checkpoints)).to(newest[name].dtype) for name, total in sums.items()}
    return {**newest, **means}
