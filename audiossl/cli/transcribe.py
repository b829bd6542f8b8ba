"""Transcribe recordings or data directories with a fine-tuned model."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from audiossl.data.audio import AudioError, audio_info
from audiossl.data.kaldi import write_table
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.whole import FileList
from audiossl.diagnostics.results import add_result
from audiossl.interop.encoder import open_source

if TYPE_CHECKING:
    from audiossl.train.fine_tune import FineTune


def main(
    experiment: Annotated[str, tyro.conf.Positional],
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    out: Path | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 1,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Transcribe recordings or data directories with a fine-tuned model.

    Prints `utterance text` lines; a data directory that holds the reference text is scored as well, and the scores are kept
    in the experiment's results.json.

    Example: audiossl transcribe exp/asr data/test recording.wav

    Args:
        experiment: experiment of `audiossl finetune`.
        paths: audio files and data directories.
        out: write the lines there too, sorted, as a Kaldi text file.
        batch_seconds: seconds of audio per batch.
        num_workers: processes that read audio.
        device: auto, cpu, cuda or cuda:N.
        json: print one JSON object with the texts and the scores.
    """
    from audiossl.train.distributed import join_world
    from audiossl.train.run_finetune import load_finetuned

    if not paths:
        raise ValueError("no recordings are given; add audio files or data directories")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or directory; give audio files or data directories")
    config = LoaderConfig(batch_seconds=batch_seconds, num_workers=num_workers)
    bad: list[str] = []
    with join_world(device) as world:
        module, tables = load_finetuned(experiment)
        module.to(world.device)
        texts, scores = _transcribe(module, paths, config, bad)
    if out is not None:
        write_table(out, texts.items())
    if json:
        print(json_module.dumps({"texts": texts, "scores": scores, "bad": bad}, ensure_ascii=False))
    else:
        for utterance, text in texts.items():
            print(f"{utterance} {text}")
        for place, values in scores.items():
            print(f"{place}: " + ", ".join(f"{name} {value:.2f} %" for name, value in values.items()), file=sys.stderr)
    for line in bad:
        print(f"audiossl: {line}", file=sys.stderr)
    folder = open_source(experiment)[0].parent.parent
    try:
        _keep(folder, scores, seed=tables["train"]["seed"], left_out=len(bad))
    except OSError as error:
        print(f"audiossl: {folder}: the scores are not kept: {error.strerror}", file=sys.stderr)
    return 1 if bad else 0


def _transcribe(
    module: FineTune, paths: tuple[Path, ...], config: LoaderConfig, bad: list[str]
) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Return the texts by utterance and the scores by data directory; unusable recordings are added to `bad`."""
    from audiossl.train.run_finetune import predict_all

    def note(utterance: str, message: str) -> None:
        bad.append(message if utterance in message else f"{utterance}: {message}")

    texts: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    files = [path for path in paths if not path.is_dir()]
    if files:
        sound = []
        for path in files:
            try:
                audio_info(path)
                sound.append(path)
            except AudioError as error:
                bad.append(str(error))
        texts |= dict(predict_all(module, FileList(tuple(sound)), config, on_bad=note)) if sound else {}
    for directory in (path for path in paths if path.is_dir()):
        manifest = Manifest.open(directory)
        own = dict(sorted(predict_all(module, manifest, config, on_bad=note)))
        texts |= own
        column = module.task.config.column
        if (directory / column).is_file():
            references = dict(zip(manifest.ids, manifest.column(column), strict=True))
            scores[str(directory)] = module.task.score(list(own.values()), [references[utterance] for utterance in own])
    return texts, scores


def _keep(folder: Path, scores: dict[str, dict[str, float]], *, seed: int, left_out: int) -> None:
    """Append the scores to the experiment's results, named like `WER test`. left_out: recordings that could not be used."""
    for place, values in scores.items():
        for name, value in values.items():
            shown = name.upper() if name in {"wer", "cer"} else name
            add_result(
                folder, f"{shown} {Path(place).resolve().name}", value, "%", seed=seed, data=place, left_out=left_out
            )
