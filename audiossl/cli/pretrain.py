"""Pretrain an encoder from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from audiossl.cli._printed import answer, say
from audiossl.cli._recipe import chosen_recipe


def main(
    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None,
    *,
    out: Path,
    data: Path | None = None,
    dev: Path | None = None,
    init: str | None = None,
    resume: bool = False,
    device: str = "auto",
    max_bad_fraction: float | None = None,
    allow_commands: bool = False,
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Pretrain an encoder from a recipe; `--section.key value` overrides any of its keys.

    Example: audiossl pretrain hubert_nano --data data/train --out exp/hubert --train.max_steps 1000

    Several processes: torchrun --nproc-per-node 4 -m audiossl pretrain ...

    Args:
        recipe: a TOML file or the name of a recipe that ships with the package; with --resume, the experiment's own where none is given.
        out: experiment folder to make.
        data: Kaldi data directory to train on (a recipe's own `run.data` otherwise).
        dev: data directory for the loss on unseen audio.
        init: experiment, checkpoint or name of an encoder to start from.
        resume: continue from the last checkpoint in `out`, or start there if it has none.
        device: auto, cpu, cuda or cuda:N.
        max_bad_fraction: share of the recordings that may be unusable; they are named and left out. Short for --data.max_bad_fraction.
        allow_commands: run the programs that wav.scp names. Short for --data.allow_commands true.
        json: print the last step's metrics as JSON.
    """
    from audiossl.config import merge
    from audiossl.train.loop import StoppedError
    from audiossl.train.run_pretrain import pretrain

    recipe = chosen_recipe(recipe, out, "pretrain", resume=resume)
    if max_bad_fraction is not None:
        overrides = merge(overrides or {}, {"data": {"max_bad_fraction": max_bad_fraction}})
    if allow_commands:
        overrides = merge(overrides or {}, {"data": {"allow_commands": True}})
    try:
        last = pretrain(
            recipe, out=out, data=data, dev=dev, init=init, overrides=overrides, resume=resume, device=device
        )
    except StoppedError as stop:
        say(str(stop))
        return 128 + stop.signal_number
    answer({"experiment": str(out), **last}, json=json)
    return 0
