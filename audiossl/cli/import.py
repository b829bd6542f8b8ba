"""Turn a checkpoint of another package into an experiment."""  # noqa: N999 - verbs are found by their file name

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from audiossl.cli._printed import answer, say


def main(
    source: Annotated[Path, tyro.conf.Positional],
    *,
    out: Path,
    format: str | None = None,  # noqa: A002 - the name of the option
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Turn a checkpoint of another package into an experiment, which every other verb takes.

    Reads folders of transformers, and files of fairseq, torchaudio and s3prl, without these packages and without running what a file may hold.
    What a file does not tell can be given as `--encoder.key value`.

    Example: audiossl import hubert_base_ls960.pt --out exp/hubert_base

    Args:
        source: a file, or a folder of transformers.
        out: experiment folder to make.
        format: transformers, fairseq, torchaudio or s3prl; found by looking otherwise.
        json: print what was made as JSON.
    """
    from audiossl.interop.experiments import write_experiment
    from audiossl.interop.formats import read_model

    unknown = sorted(set(overrides or {}) - {"encoder"})
    if unknown:
        raise ValueError(f"--{unknown[0]}: only keys of the encoder can be given here; write --encoder.key value")
    name, model = read_model(source, name=format, overrides=(overrides or {}).get("encoder"))
    write_experiment(model, out, source=str(source), file_format=name)
    for note in model.notes:
        say(f"{source}: {note}")
    facts = {"experiment": str(out), "format": name, "kind": model.kind, "heads": model.objective.get("name", "none")}
    facts["output_layer"] = len(model.ctc.weight) if model.ctc else 0
    facts["notes"] = list(model.notes)
    parameters = sum(value.numel() for value in model.weights.values())
    answer(facts, f"{out}: {model.kind} of {name}, {parameters / 1e6:.1f} million parameters", json=json)
    return 0
