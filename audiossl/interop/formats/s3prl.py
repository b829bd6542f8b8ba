"""s3prl's converted checkpoints (Yang et al., 2021): fairseq's weights with plain configurations, which `hubert_local` and `wav2vec2_local` load.

`wavlm_local` takes WavLM's own files, which `--to fairseq` writes; `hf_hubert_custom` and `hf_wav2vec2_custom` take folders of `--to transformers`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from audiossl.interop.formats._fairseq import (
    as_published,
    config_of,
    read_state,
    require_family,
    state_of,
    symbols_of,
    task_of,
)
from audiossl.interop.model import convolutions, written_whole
from audiossl.interop.source_file import tensors

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.model import Model
    from audiossl.interop.source_file import SourceFile

_KEYS = ("task_cfg", "model_cfg", "model_weight")


def sniff(source: SourceFile) -> bool:
    """Whether it has the three entries that s3prl requires."""
    return all(isinstance(source.content.get(key), dict) for key in _KEYS)


def read(source: SourceFile, overrides: dict[str, Any]) -> Model:
    """Read the encoder with its pretraining heads."""
    if not sniff(source):
        raise ValueError(f"{source.path}: lacks {', '.join(_KEYS)}; it is no converted checkpoint of s3prl")
    task, config, weights = (source.content[key] for key in _KEYS)
    known = source.content.get("dictionaries_symbols")
    symbols = [words for words in known if isinstance(words, list)] if isinstance(known, list) else []
    where = str(source.path)
    return read_state(tensors(weights, where), config, task, symbols, overrides, where)


_RATE, _HOP = 16000, 320
"""Hz of the waveforms that s3prl gives all its upstreams, and the samples between frames that it takes these two for."""


def write(model: Model, out: Path) -> list[str]:
    """Write a file for s3prl's `hubert_local` or `wav2vec2_local`, whichever the model's kind is."""
    where = f"--to s3prl {out}"
    model, notes = as_published(model, "s3prl")
    require_family(model, ("hubert", "wav2vec2"), where)
    _require_its_frames(model, where)
    content: dict[str, Any] = {
        "task_cfg": task_of(model),
        "model_cfg": config_of(model),
        "model_weight": state_of(model, where),
    }
    if model.kind == "hubert":
        content["dictionaries_symbols"] = symbols_of(model) or [None]
    with written_whole(out) as partial:
        torch.save(content, partial)
    notes += [f"an upstream of s3prl: run_downstream.py -u {model.kind}_local -k {out}"]
    return [*notes, "the output layer is left behind: upstreams have none"] if model.ctc else notes


def _require_its_frames(model: Model, where: str) -> None:
    """Raise ValueError for a model that would hear, or be counted, at another rate than its own."""
    rate = model.encoder.get("sample_rate", _RATE)
    hop = math.prod(stride for _, _, stride in convolutions(model.encoder))
    if rate != _RATE:
        raise ValueError(
            f"{where}: encoder.sample_rate is {rate}, and s3prl gives its upstreams {_RATE} Hz; choose another --to"
        )
    if hop != _HOP:
        raise ValueError(
            f"{where}: its frames are {hop} samples apart, and s3prl counts on {_HOP}; choose another --to"
        )
