"""Write an experiment as a checkpoint of another package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiossl.cli._printed import answer, say


def main(
    experiment: Annotated[str, tyro.conf.Positional],
    *,
    to: Literal["transformers", "fairseq", "torchaudio", "s3prl", "onnx"],
    out: Path,
    kind: str | None = None,
    json: bool = False,
) -> int:
    """Write an experiment as a checkpoint of another package.

    Encoders of wav2vec 2.0's family and WavLM's, the heads that they were pretrained with, and recognisers with one linear layer;
    to onnx any encoder that gives frames of waveforms.

    Example: audiossl export exp/hubert --to transformers --out hubert_for_transformers

    Args:
        experiment: experiment, checkpoint or name of either.
        to: the package.
        out: folder (transformers) or file to make.
        kind: the model class that it becomes, such as hubert or wav2vec2; what it was trained or imported as otherwise.
        json: print what was made as JSON.
    """
    from audiossl.interop import formats
    from audiossl.interop.experiments import KINDS, open_experiment, open_frames
    from audiossl.registry import suggestion

    if kind is not None and kind not in KINDS:
        raise ValueError(f"--kind {kind}: unknown; {suggestion(kind, list(KINDS))}")
    model = open_frames(experiment) if to == "onnx" else open_experiment(experiment, kind=kind)
    notes = formats.get(to).write(model, out)
    for note in notes:
        say(note)
    facts = {"checkpoint": str(out), "format": to, "kind": model.kind, "notes": notes}
    answer(facts, f"{out}: {model.kind} for {to}", json=json)
    return 0
