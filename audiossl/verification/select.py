"""The best checkpoint of an experiment: the one with the lowest equal error rate on a development trial list."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiossl.interop.checkpoint import best_step, list_checkpoints, mark_best, step_of
from audiossl.interop.encoder import CONFIG, find_source
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.verification._vectors import pair_scores, trial_rows, vectors_of
from audiossl.verification.cosine import Cosine
from audiossl.verification.embeddings import Embeddings
from audiossl.verification.extract import extract, open_embedder
from audiossl.verification.protocol import KEPT, is_test_list, keep_list

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from audiossl.data.manifest import Manifest
    from audiossl.metrics.equal_error_rate import Convention
    from audiossl.verification.cosine import CropMean
    from audiossl.verification.extract import ExtractConfig
    from audiossl.verification.trials import Trials


def select(
    source: str,
    manifest: Manifest,
    trials: Trials,
    config: ExtractConfig,
    *,
    crop_mean: CropMean = "unit",
    eer: Convention = "interpolated",
    device: str | torch.device = "cpu",
    log: Callable[[str], None],
) -> tuple[int, dict[int, float]]:
    """Score every kept checkpoint by cosine, mark the best one in the experiment, and return its step and all error rates, percent by step.

    From then on the experiment means that checkpoint, of several equally good ones the newest; its trial list is kept with it. manifest:
    has the utterances of `trials`. ValueError for a fine-tuned experiment, whose best checkpoint is its task's.
    """
    experiment = _experiment(source)
    spoken = _spoken(manifest, trials)
    rates = {}
    with tempfile.TemporaryDirectory(prefix=".select-", dir=experiment) as folder:
        for checkpoint in list_checkpoints(experiment):
            embedder = open_embedder(str(checkpoint), device=device)
            extract(spoken, embedder, Path(folder), config, log=log)
            embeddings = Embeddings.open(Path(folder))
            vectors = vectors_of(embeddings, trial_rows(trials, embeddings), Cosine(crops=crop_mean))
            scores = pair_scores(vectors, trials.enrol, trials.test)
            rates[step_of(checkpoint)] = equal_error_rate(scores, trials.labels, convention=eer)
            log(f"step {step_of(checkpoint)}: EER {rates[step_of(checkpoint)]:.3f} %")
    best = min(rates, key=lambda step: (rates[step], -step))
    keep_list(trials.path, experiment / KEPT)
    by_step = {str(step): rate for step, rate in rates.items()}
    chosen = {"trials": str(trials.path.resolve()), "select_on_test": is_test_list(trials.path)}
    mark_best(experiment, best, {"eer": rates[best], **chosen, "eer_by_step": by_step})
    return best, rates


def _experiment(source: str) -> Path:
    experiment = find_source(source)
    if not (experiment / CONFIG).is_file() or not list_checkpoints(experiment):
        raise ValueError(
            f"{experiment}: is no experiment with checkpoints to choose from; give the folder of a trained one"
        )
    if best_step(experiment) is not None and not (experiment / KEPT).is_file():
        raise ValueError(
            f"{experiment}: its best checkpoint was chosen in fine-tuning, by the development data of its task; use it as it is"
        )
    return experiment


def _spoken(manifest: Manifest, trials: Trials) -> Manifest:
    """Return the utterances of the trials alone; ValueError names the first trial of which one is absent."""
    row = {name: index for index, name in enumerate(manifest.ids)}
    absent = np.array([name not in row for name in trials.names])
    if absent.any():
        trial = int(np.argmax(absent[trials.enrol] | absent[trials.test]))
        side = trials.enrol if absent[trials.enrol[trial]] else trials.test
        raise ValueError(
            f"{trials.place(trial)}: {manifest.path} has no utterance {trials.names[side[trial]]!r}, and lacks "
            f"{int(absent.sum()) - 1} others of this list; give the data that it is of"
        )
    return manifest.subset(np.array(sorted(row[name] for name in trials.names)))
