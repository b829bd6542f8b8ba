"""Pretraining heads: HuBERT's codewords and wav2vec 2.0's quantiser, as our objectives name them and as published checkpoints do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from audiossl.interop.keys import Weights
    from audiossl.interop.model import Model

    Names: TypeAlias = Mapping[str, str]

Tables: TypeAlias = "dict[str, Any]"

FAIRSEQ = {
    "logits": "quantizer.weight_proj",
    "codebook": "quantizer.vars",
    "target": "project_q",
    "context": "final_proj",
}
TRANSFORMERS = {**FAIRSEQ, "codebook": "quantizer.codevectors", "context": "project_hid"}
"""Where published wav2vec 2.0 keeps what our objective calls `quantiser.logits`, `quantiser.codebook`, `project_target`, `project_context`."""

_OURS = {"logits": "quantiser.logits", "target": "project_target.0", "context": "project_context.0"}


def read_contrastive(weights: Weights, names: Names, *, groups: int, temperature: float) -> tuple[Weights, Tables]:
    """Return wav2vec 2.0's heads and the [objective] table for them; both are empty where they are incomplete or of a shape that ours cannot have.

    The published codebook is (1, groups * entries, dim / groups); ours has a dimension for the groups.
    """
    wanted = [f"{names[part]}.{kind}" for part in _OURS for kind in ("weight", "bias")]
    if any(name not in weights for name in [*wanted, names["codebook"]]):
        return {}, {}
    codebook = weights[names["codebook"]].float()
    entries, code_dim = codebook.shape[1] // groups, codebook.shape[2] * groups
    if len(weights[f"{names['context']}.weight"]) != code_dim:
        return {}, {}
    heads = {
        f"{ours}.{k}": weights[f"{names[part]}.{k}"].float() for part, ours in _OURS.items() for k in ("weight", "bias")
    }
    heads["quantiser.codebook"] = codebook.view(groups, entries, -1)
    heads["gumbel_temperature"] = torch.tensor(0.5)
    table = {
        "name": "wav2vec2",
        "final_dim": code_dim,
        "groups": groups,
        "entries": entries,
        "temperature": temperature,
    }
    return heads, table


def write_contrastive(model: Model, names: Names) -> Weights:
    """Return wav2vec 2.0's heads under published names; empty where the model has none, or deeper ones than those have."""
    if model.objective.get("name") != "wav2vec2" or "quantiser.logits.weight" not in model.heads:
        return {}
    linear = {f"{name}.{kind}" for name in _OURS.values() for kind in ("weight", "bias")}
    if {name for name in model.heads if name.startswith(("project_", "quantiser.logits"))} != linear:
        return {}
    heads = {
        f"{names[part]}.{k}": model.heads[f"{ours}.{k}"] for part, ours in _OURS.items() for k in ("weight", "bias")
    }
    codebook = model.heads["quantiser.codebook"]
    heads[names["codebook"]] = codebook.reshape(1, -1, codebook.shape[-1])
    return heads


def read_codewords(
    projection: tuple[Tensor, Tensor], codewords: Tensor, sizes: Sequence[int], table: Tables
) -> tuple[Weights, Tables]:
    """Return HuBERT's heads and the [objective] table for them.

    projection: (weight, bias), of all label sets in a row or one for all. codewords: (sum of sizes, final_dim). sizes: rows of each label set.
    table: what else is known of the objective.
    """
    weight, bias = (part.float() for part in projection)
    final_dim = codewords.shape[1]
    untied = len(weight) == final_dim * len(sizes)
    heads: Weights = {}
    for i, rows in enumerate(torch.split(codewords.float(), list(sizes))):
        own = slice(i * final_dim, (i + 1) * final_dim) if untied else slice(None)
        parts = {f"projections.{i}.weight": weight[own], f"projections.{i}.bias": bias[own], f"codewords.{i}": rows}
        heads |= {name: part.clone() for name, part in parts.items()}
    labels = table.get("labels") or [f"imported_{i}" for i in range(len(sizes))]
    return heads, {"name": "hubert", **table, "labels": list(labels), "final_dim": final_dim}


def codeword_sets(model: Model) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(projection weight, its bias, codewords) of each label set of HuBERT; empty where the model has none."""
    if model.objective.get("name") != "hubert":
        return []
    count = sum(name.startswith("codewords.") for name in model.heads)
    return [
        (model.heads[f"projections.{i}.weight"], model.heads[f"projections.{i}.bias"], model.heads[f"codewords.{i}"])
        for i in range(count)
    ]
