"""Fine-tune a trained encoder on labelled data: adapters, full or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from audiossl.cli._printed import answer, say
from audiossl.cli._recipe import chosen_recipe


def main(
    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None,
    *,
    out: Path | None = None,
    init: str | None = None,
    data: Path | None = None,
    dev: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    max_bad_fraction: float | None = None,
    allow_commands: bool = False,
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Fine-tune a trained encoder on labelled data; `--section.key value` overrides any key of the recipe.

    Example: audiossl finetune ctc_adapters --init exp/hubert --data data/train_10min --dev data/dev --out exp/asr

    Args:
        recipe: a TOML file or the name of a recipe that ships with the package; with --resume, the experiment's own where none is given.
        out: experiment folder to make (default: exp/RECIPE).
        init: experiment, checkpoint or name of the encoder; `random:SOURCE` for random weights of the same architecture.
        data: labelled data directory to train on.
        dev: data directory that chooses the best checkpoint.
        resume: continue from the last checkpoint in `out`, or start there if it has none.
        device: auto, cpu, cuda or cuda:N.
        max_bad_fraction: share of the recordings that may be unusable; they are named and left out. Short for --data.max_bad_fraction.
        allow_commands: run the programs that wav.scp names. Short for --data.allow_commands true.
        json: print the last step's metrics as JSON.
    """
    from audiossl.config import merge
    from audiossl.train.loop import StoppedError
    from audiossl.train.run_finetune import finetune

    recipe = chosen_recipe(recipe, out, "finetune", resume=resume)
    if out is None:
        out = Path("exp", Path(recipe).stem)
        say(f"writes {out}; --out names another folder")
    if max_bad_fraction is not None:
        overrides = merge(overrides or {}, {"data": {"max_bad_fraction": max_bad_fraction}})
    if allow_commands:
        overrides = merge(overrides or {}, {"data": {"allow_commands": True}})
    try:
        last = finetune(
            recipe, out=out, init=init, data=data, dev=dev, overrides=overrides, resume=resume, device=device
        )
    except StoppedError as stop:
        say(str(stop))
        return 128 + stop.signal_number
    answer({"experiment": str(out), **last}, json=json)
    return 0
