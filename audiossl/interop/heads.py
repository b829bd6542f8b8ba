"""Pretraining heads: HuBERT's codewords, wav2vec 2.0's quantiser and DinoSR's codebooks, as our objectives name them and as published checkpoints do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from audiossl import registry
from audiossl.interop.model import shaped

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


CODEWORD_PARTS = ("projections.", "codewords.")
CONTRASTIVE_PARTS = ("quantiser.", "project_target.", "project_context.", "gumbel_temperature")
"""What our two families of objectives have beside the encoder that published checkpoints have too, or (the temperature) need not."""


def family(objective: Tables) -> str:
    """Return which published model has the heads of an [objective] table: `hubert`, `wav2vec2`, or an empty string for neither."""
    from audiossl.objectives._codewords import CodewordObjective
    from audiossl.objectives._contrastive import ContrastiveObjective

    cls = registry.get("objectives", objective["name"]) if objective else object
    return (
        "hubert" if issubclass(cls, CodewordObjective) else "wav2vec2" if issubclass(cls, ContrastiveObjective) else ""
    )


def left_behind(model: Model, kept: tuple[str, ...], package: str) -> list[str]:
    """Say which of a model's heads a package gets nothing of. kept: how the names of those begin that it gets."""
    left = [name for name in model.heads if not name.startswith(kept)]
    if not left:
        return []
    which = f"{len(left)} tensors of the {model.objective['name']} heads are left behind, such as {left[0]}"
    return [f"{which}: {package} has no {model.kind} model with them"]


def codeword_tensors(
    weights: Weights, projection: str, codewords: str, where: str
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return ((weight, bias), codewords) of HuBERT's heads under published names, one projection or one for each label set; ValueError where they do not fit."""
    rows, weight = shaped(weights, codewords, 2, where), shaped(weights, f"{projection}.weight", 2, where)
    bias = shaped(weights, f"{projection}.bias", 1, where)
    if len(weight) % rows.shape[1] or len(bias) != len(weight):
        raise ValueError(
            f"{where}: {projection} maps to {len(weight)} and {len(bias)} channels, where {codewords} has {rows.shape[1]}"
        )
    return (weight, bias), rows


def read_contrastive(weights: Weights, names: Names, *, groups: int, temperature: float) -> tuple[Weights, Tables]:
    """Return wav2vec 2.0's heads and the [objective] table for them; both are empty where they are incomplete or of a shape that ours cannot have.

    The published codebook is (1, groups * entries, dim / groups); ours has a dimension for the groups.
    """
    wanted = [f"{names[part]}.{kind}" for part in _OURS for kind in ("weight", "bias")]
    if any(name not in weights for name in [*wanted, names["codebook"]]):
        return {}, {}
    codebook = weights[names["codebook"]].float()
    if codebook.ndim != 3 or groups < 1 or not codebook.numel() or codebook.shape[1] % groups:
        return {}, {}
    entries, code_dim = codebook.shape[1] // groups, codebook.shape[2] * groups
    heads = {
        f"{ours}.{k}": weights[f"{names[part]}.{k}"].float() for part, ours in _OURS.items() for k in ("weight", "bias")
    }
    rows = {"logits": groups * entries, "target": code_dim, "context": code_dim}
    if any(heads[f"{_OURS[part]}.bias"].shape != (count,) for part, count in rows.items()):
        return {}, {}
    if any(heads[f"{_OURS[part]}.weight"].shape[:-1] != (count,) for part, count in rows.items()):
        return {}, {}
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


def read_online_codes(weights: Weights, dim: int) -> tuple[Weights, Tables]:
    """Return DinoSR's heads and codebooks and the [objective] table for them; both are empty where they are incomplete or do not fit one another.

    dim: of the encoder. Both here and there a codebook is kept as sums and counts, whose ratio are the codes, the lowest layer's first.
    """
    count = sum(name.startswith("_codebook_cnts") for name in weights)
    kinds = ("_codebook_cnts{}", "heads.{}.bias", "_codebook{}", "heads.{}.weight")
    names = [[kind.format(i) for i in range(count)] for kind in kinds]
    if not count or any(name not in weights for each in names for name in each):
        return {}, {}
    num_codes = weights[names[0][0]].numel()
    shapes = ((num_codes,), (num_codes,), (num_codes, dim), (num_codes, dim))
    if any(weights[n].shape != shape for each, shape in zip(names, shapes, strict=True) for n in each):
        return {}, {}
    counts, biases, sums, heads = ([weights[name].float() for name in each] for each in names)
    ours = {"codebooks.sums": torch.stack(sums), "codebooks.counts": torch.stack(counts)}
    for i in range(count):
        ours |= {f"heads.{i}.weight": heads[i], f"heads.{i}.bias": biases[i]}
    return ours, {"name": "dinosr", "top_layers": count, "num_codes": num_codes}


def write_contrastive(model: Model, names: Names) -> Weights:
    """Return wav2vec 2.0's heads under published names; empty where the model has none, deeper ones than those have, or is of another kind."""
    if model.kind != "wav2vec2" or family(model.objective) != "wav2vec2":
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
    """(projection weight, its bias, codewords) of each label set of HuBERT and what is built on it; empty where the model has none."""
    if family(model.objective) != "hubert":
        return []
    count = sum(name.startswith("codewords.") for name in model.heads)
    return [
        (model.heads[f"projections.{i}.weight"], model.heads[f"projections.{i}.bias"], model.heads[f"codewords.{i}"])
        for i in range(count)
    ]
