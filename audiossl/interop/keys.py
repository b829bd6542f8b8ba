"""Names of tensors: ours and other packages', as tables of pairs, and the two spellings of weight norm.

A pair is (their module, our module); `*` stands for a number, the same on both sides, and whatever follows the module (`.weight`, `.bias`, both parts of a
weight norm) stays. Query, key and value are one matrix here; in tables they are `attention.q`, `.k` and `.v`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Pairs: TypeAlias = "tuple[tuple[str, str], ...]"
Weights: TypeAlias = "dict[str, Tensor]"

_TAIL = r"((?:\.parametrizations\.weight)?\.\w+)?"
_QKV = re.compile(r"(.*\.attention\.)(?:q|k|v)(\.\w+)")
_SPELLINGS = (
    (".weight_g", ".parametrizations.weight.original0"),  # the norms
    (".weight_v", ".parametrizations.weight.original1"),  # the directions
)


def to_ours(weights: Mapping[str, Tensor], pairs: Pairs) -> tuple[Weights, list[str]]:
    """Rename to our names, query, key and value fused; also return the names that no pair knows."""
    renamed, unknown = _rename(new_weight_norm(weights), pairs)
    return _fused(renamed), unknown


def to_theirs(weights: Mapping[str, Tensor], pairs: Pairs) -> Weights:
    """Rename from our names, the newer spelling of weight norm kept; query, key and value stay one where a pair has them so.

    AssertionError for a name that no pair knows.
    """
    fused = any(".attention.qkv." in ours for _, ours in pairs)
    renamed, unknown = _rename(weights if fused else _split(weights), tuple((ours, theirs) for theirs, ours in pairs))
    assert not unknown, unknown
    return renamed


def new_weight_norm(weights: Mapping[str, Tensor]) -> Weights:
    """Spell weight norm as `torch.nn.utils.parametrizations` does."""
    return {_respelt(name, _SPELLINGS): value for name, value in weights.items()}


def old_weight_norm(weights: Mapping[str, Tensor]) -> Weights:
    """Spell weight norm as `torch.nn.utils.weight_norm` did: `weight_g` and `weight_v`."""
    return {_respelt(name, tuple((new, old) for old, new in _SPELLINGS)): value for name, value in weights.items()}


def _respelt(name: str, spellings: Pairs) -> str:
    for old, new in spellings:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _rename(weights: Mapping[str, Tensor], pairs: Pairs) -> tuple[Weights, list[str]]:
    rules = [(re.compile(re.escape(old).replace(r"\*", r"(\d+)") + _TAIL), new) for old, new in pairs]
    renamed: Weights = {}
    unknown = []
    for name, value in weights.items():
        for pattern, new in rules:
            match = pattern.fullmatch(name)
            if match:
                *numbers, tail = match.groups()
                renamed[new.replace("*", "{}").format(*numbers) + (tail or "")] = value
                break
        else:
            unknown.append(name)
    return renamed, unknown


def _fused(weights: Weights) -> Weights:
    fused: Weights = {}
    for name, value in weights.items():
        match = _QKV.fullmatch(name)
        if not match:
            fused[name] = value
            continue
        named = (weights.get(f"{match[1]}{part}{match[2]}") for part in "qkv")
        parts = [part for part in named if part is not None and part.ndim]
        if len(parts) == 3 and len({part.shape for part in parts}) == 1:
            fused[f"{match[1]}qkv{match[2]}"] = torch.cat(parts)
        else:
            fused[name] = value  # the encoder will say what is missing
    return fused


def _split(weights: Mapping[str, Tensor]) -> Weights:
    split: Weights = {}
    for name, value in weights.items():
        before, joined, after = name.partition(".attention.qkv.")
        if joined:
            split |= {f"{before}.attention.{part}.{after}": t for part, t in zip("qkv", value.chunk(3), strict=True)}
        else:
            split[name] = value
    return split
