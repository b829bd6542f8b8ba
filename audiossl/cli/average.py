"""Average the last checkpoints of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from audiossl.cli._printed import answer
from audiossl.cli.main import MisuseError


def main(
    experiment: Annotated[str, tyro.conf.Positional],
    *,
    out: Path,
    last: int = 10,
    json: bool = False,
) -> int:
    """Write an experiment whose encoder is the mean of the last checkpoints of another one.

    Example: audiossl average exp/dino --last 10 --out exp/dino_mean

    Args:
        experiment: a pretrained experiment that keeps as many checkpoints: `train.keep_checkpoints`.
        out: experiment folder to make.
        last: number of checkpoints, the newest ones.
        json: print what was done as JSON.
    """
    from audiossl.interop.average import average_checkpoints

    if last < 2:
        raise MisuseError(f"audiossl average: --last {last}: a mean takes at least 2 checkpoints")
    steps = average_checkpoints(experiment, last, out)
    said = f"{out}: mean of {len(steps)} checkpoints, steps {steps[0]} to {steps[-1]}"
    answer({"experiment": str(out), "steps": steps}, said, json=json)
    return 0
