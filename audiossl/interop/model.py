"""A model between two formats: an encoder with the heads that came with it, in our names, whatever file it was or will be."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from audiossl.files import naming
from audiossl.interop.encoder import build_encoder, named_config
from audiossl.interop.source_file import shown
from audiossl.nn.conv_frontend import CONV_KERNELS, CONV_STRIDES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.interop.keys import Weights
    from audiossl.nn.vocabulary import Vocabulary

Tables: TypeAlias = "dict[str, Any]"

NEVER = -1e4
"""Bias of a token that a recogniser must have but was never trained to write."""


@dataclass(frozen=True)
class CTCHead:
    """A linear layer over tokens. weight: (token, dim); bias: (token,)."""

    vocabulary: Vocabulary
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Model:
    """kind: what the field calls it, as transformers spell it (`hubert`, `wav2vec2`, `wavlm`, `unispeech-sat`, `data2vec-audio` ...).

    encoder: the complete [encoder] table. weights: the encoder's `state_dict`. heads: tensors of the objective beside the encoder, as its
    `state_dict` names them, and objective: its table, empty where there is none. notes: what was left behind or made up, for people.
    """

    kind: str
    encoder: Tables
    weights: Weights
    heads: Weights = field(default_factory=dict)
    objective: Tables = field(default_factory=dict)
    ctc: CTCHead | None = None
    notes: tuple[str, ...] = ()


def encoder_table(weights: Weights, facts: Mapping[str, Any], where: str) -> Tables:
    """Return the complete [encoder] table of some weights, in our names; sizes are read from their shapes.

    facts: what shapes do not tell, by our key (`num_heads`, `pre_norm`, `conv_strides`, dropouts ...). A group norm of another package counts padding.
    ValueError where the weights are of no encoder that is here.
    """
    from audiossl.config import to_table

    name = "wavlm" if "transformer.layers.0.attention.gate_scale" in weights else "wav2vec2"
    name = "mhubert" if "transformer.positions.norm.weight" in weights else name
    dim, conv_dim = shaped(weights, "projection.weight", 2, where).shape
    convs = range(_count(weights, "frontend.convs."))
    kernels = tuple(shaped(weights, f"frontend.convs.{i}.weight", 3, where).shape[2] for i in convs)
    ffn_dim = len(shaped(weights, "transformer.layers.0.ffn_in.weight", 2, where))
    taps = shaped(weights, _position_weight(weights), 3, where)
    if kernels != CONV_KERNELS and "conv_strides" not in facts:
        raise ValueError(
            f"{where}: convolutions of {list(kernels)} frames, whose strides it does not tell; add --encoder.conv_strides '[5, 2, ...]'"
        )
    group = "frontend.layer_norms.0.weight" not in weights
    shapes = {
        "num_layers": _count(weights, "transformer.layers."),
        "dim": dim,
        "ffn_dim": ffn_dim,
        "position_kernel": taps.shape[2],
        "position_groups": max(1, dim // taps.shape[1]),
        "position_depth": max(1, _count(weights, "transformer.positions.blocks.")),
        "conv_dim": conv_dim,
        "conv_kernels": kernels,
        "conv_norm": "group" if group else "layer",
        "conv_bias": "frontend.convs.1.bias" in weights,
        "legacy_norm": group,
    }
    try:
        _, config = named_config("encoders", {"name": name, **shapes, **facts}, f"{where}: encoder")
    except ValueError as error:  # a Config knows no file
        told = str(error)
        raise ValueError(told if told.startswith(where) else f"{where}: {told}") from None
    if config.conv_kernels != kernels:
        raise ValueError(
            f"{where}: says convolutions of {shown(list(config.conv_kernels))} frames, its weights have {list(kernels)}; copy both again"
        )
    return {"name": name, **to_table(config)}


def shaped(weights: Weights, name: str, dims: int, where: str) -> Tensor:
    """Return a tensor of an encoder or its heads; ValueError where it is absent, empty, or has another number of dimensions."""
    if name not in weights:
        raise ValueError(f"{where}: lacks {name!r}; it is no whole model of this family")
    value = weights[name]
    if value.ndim != dims or not value.numel():
        raise ValueError(f"{where}: {name!r} has the shape {list(value.shape)}, where {dims} dimensions are wanted")
    return value


def checked(weights: Weights, table: Tables, where: str) -> Weights:
    """Return the weights as the encoder of a table wants them: float32 and complete; ValueError names what is missing, too much or of another shape."""
    if table["conv_norm"] == "group":  # that norm takes a bias away again
        weights = {name: value for name, value in weights.items() if name != "frontend.convs.0.bias"}
    try:
        with torch.device("meta"):
            expected = build_encoder(table, where).state_dict()
    except ValueError as error:  # of its parts, which do not know the file
        raise ValueError(f"{where}: {error}") from error
    faults = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [n for n, value in expected.items() if n in weights and weights[n].shape != value.shape],
    }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{where}: does not fit its configuration: {fault} {', '.join(names[:3])}{more}")
    return {
        name: (value.float() if value.is_floating_point() else value).contiguous().clone()
        for name, value in weights.items()
    }


def require_known(where: str, **values: tuple[Any, Any]) -> None:
    """Raise ValueError where an option of another package, given as name=(value, the only one that our encoders compute), has another value."""
    for name, (value, wanted) in values.items():
        if type(value) is not type(wanted) or value != wanted:
            raise ValueError(
                f"{where}: {name} = {shown(value)} has no counterpart here; only {wanted!r} can be imported"
            )


def convolutions(table: Tables) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution of the frontend. table: [encoder], which may be older than those options."""
    pairs = zip(table.get("conv_kernels", CONV_KERNELS), table.get("conv_strides", CONV_STRIDES), strict=True)
    return [(table["conv_dim"], kernel, stride) for kernel, stride in pairs]


def require_absent(out: Path) -> None:
    """Raise ValueError where `out` exists."""
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another --out")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Give a place beside `out` to write a file or folder to, and rename it in the end; ValueError where `out` exists."""
    require_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    _remove(partial)
    try:
        with naming(out):
            yield partial
    except BaseException:
        _remove(partial)
        raise
    partial.replace(out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _position_weight(weights: Weights) -> str:
    """Name of the kernel of the (first) convolution that gives positions."""
    places = ("conv.parametrizations.weight.original1", "conv.weight", "blocks.0.conv.weight")
    names = [f"transformer.positions.{place}" for place in places]
    return next((name for name in names if name in weights), names[0])


def _count(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)})
