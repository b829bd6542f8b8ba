"""Choose the best checkpoint of an experiment on development trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError


def main(
    experiment: Annotated[str, tyro.conf.Positional],
    *,
    trials: Path,
    data: Path,
    crops: int | None = None,
    crop_duration: float | None = None,
    crop_mean: Literal["unit", "raw"] | None = None,
    eer: Literal["interpolated", "max", "mean", "convex_hull"] = "interpolated",
    select_on_test: bool = False,
    batch_seconds: float = 200.0,
    num_workers: int = 2,
    allow_commands: bool = False,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Choose the best checkpoint of an experiment by its equal error rate on development trials; cosine scores.

    The experiment means that checkpoint from then on. `audiossl verify` refuses to score this list, or others of its utterances, with it, or says so in results.json.

    Example: audiossl select exp/simclr --trials data/dev/trials --data data/dev

    Args:
        experiment: a pretrained experiment; its kept checkpoints are compared: `train.keep_checkpoints`.
        trials: development trials, never those that are reported.
        data: data directory with their utterances.
        crops: embed so many crops of each utterance instead of all of it.
        crop_duration: seconds of each crop; shorter utterances are repeated.
        crop_mean: what is averaged over crops, as in `audiossl verify` (default: unit).
        eer: convention for the equal error rate.
        select_on_test: take a list that is for testing: trials_o, trials_e, trials_h and their _cleaned, and those in a folder `test`; best.json says so.
        batch_seconds: seconds of padded audio per batch.
        num_workers: processes that read audio.
        allow_commands: run the programs that wav.scp names.
        device: auto, cpu, cuda or cuda:N.
        json: print the error rates as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import join_world
    from audiossl.verification.extract import ExtractConfig
    from audiossl.verification.protocol import is_test_list
    from audiossl.verification.select import select
    from audiossl.verification.trials import read_trials

    if (crops is None) != (crop_duration is None):
        raise MisuseError("audiossl select: --crops and --crop-duration go together")
    if crop_mean is not None and crops is None:
        raise MisuseError("audiossl select: --crop-mean goes with --crops; add it")
    if is_test_list(trials) and not select_on_test:
        raise ValueError(
            f"{trials}: is a test list by its name or its folder's; give development trials, or add --select-on-test, which best.json will say"
        )
    config = ExtractConfig(crops, crop_duration, batch_seconds, num_workers, max_bad_fraction=0.0)
    manifest = Manifest.open(data, allow_commands=allow_commands)
    with join_world(device) as world:
        listed, way = read_trials(trials), crop_mean or "unit"
        listed.require_both_classes()
        best, rates = select(experiment, manifest, listed, config, crop_mean=way, eer=eer, device=world.device, log=say)
    facts = {"experiment": experiment, "step": best, "eer": rates[best], "eer_by_step": rates}
    said = f"{experiment}: best of {len(rates)} checkpoints at step {best}, EER {rates[best]:.3f} %"
    answer(facts, said, json=json)
    return 0
