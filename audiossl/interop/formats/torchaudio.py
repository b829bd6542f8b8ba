"""State dicts of torchaudio's `Wav2Vec2Model`, WavLM among them, and `HuBERTPretrainModel`, with the arguments of the function that builds them in JSON beside.

Published ones come without: then the number of heads is the usual one of that width, and blocks normalise first where the frontend has layer norms.
torchaudio's transformer has a `layer_norm_first` inside that means the opposite of the builders' `encoder_layer_norm_first`, which is the one in the JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from audiossl.interop.heads import CODEWORD_PARTS, codeword_sets, codeword_tensors, left_behind, read_codewords
from audiossl.interop.keys import to_ours, to_theirs
from audiossl.interop.model import Model, checked, convolutions, encoder_table, shaped, written_whole
from audiossl.interop.source_file import SourceFile, entry, read_json, shown, tensors, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.keys import Pairs, Weights

_LAYER, _OURS = "encoder.transformer.layers.*.", "transformer.layers.*."
PAIRS: Pairs = (
    ("feature_extractor.conv_layers.*.conv", "frontend.convs.*"),
    ("encoder.feature_projection.layer_norm", "feature_norm"),
    ("encoder.feature_projection.projection", "projection"),
    ("encoder.transformer.pos_conv_embed.conv", "transformer.positions.conv"),
    ("encoder.transformer.layer_norm", "transformer.norm"),
    (f"{_LAYER}layer_norm", f"{_OURS}attention_norm"),
    (f"{_LAYER}feed_forward.intermediate_dense", f"{_OURS}ffn_in"),
    (f"{_LAYER}feed_forward.output_dense", f"{_OURS}ffn_out"),
    (f"{_LAYER}final_layer_norm", f"{_OURS}ffn_norm"),
)
ATTENTION: dict[str, Pairs] = {
    "wav2vec2": tuple(
        (f"{_LAYER}attention.{part}_proj", f"{_OURS}attention.{part}") for part in ("q", "k", "v", "out")
    ),
    "wavlm": (
        *((f"{_LAYER}attention.attention.in_proj_{k}", f"{_OURS}attention.qkv.{k}") for k in ("weight", "bias")),
        (f"{_LAYER}attention.attention.out_proj", f"{_OURS}attention.out"),
        (f"{_LAYER}attention.gru_rel_pos_linear", f"{_OURS}attention.gate"),
        (f"{_LAYER}attention.gru_rel_pos_const", f"{_OURS}attention.gate_scale"),
        (f"{_LAYER}attention.rel_attn_embed", f"{_OURS}attention.bias"),
    ),
}
NORM: dict[str, Pairs] = {
    "group": (("feature_extractor.conv_layers.0.layer_norm", "frontend.group_norm"),),
    "layer": (("feature_extractor.conv_layers.*.layer_norm", "frontend.layer_norms.*"),),
}
_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""Attention heads of the published models, by width."""
_PROJECTION = "encoder.feature_projection.projection.weight"
_LAYERS = "extractor_conv_layer_config"
_MASK = "mask_generator.mask_embedding"
_BIAS = "encoder.transformer.layers.0.attention.rel_attn_embed.weight"
"""Of WavLM alone: (bucket, head)."""


def sniff(source: SourceFile) -> bool:
    """Whether it is a state dict with torchaudio's names."""
    return _PROJECTION in _weights(source)


_FACTS: dict[str, tuple[str, Any]] = {
    "pre_norm": ("encoder_layer_norm_first", False),
    "dropout": ("encoder_dropout", 0.1),
    "attention_dropout": ("encoder_attention_dropout", 0.1),
    "activation_dropout": ("encoder_ff_interm_dropout", 0.1),
    "layer_drop": ("encoder_layer_drop", 0.1),
    "dropout_input": ("encoder_projection_dropout", 0.1),
}
"""Our key: (the argument, a value of its type)."""


def read(source: SourceFile, overrides: dict[str, Any]) -> Model:
    """Read the encoder, with HuBERT's heads where it is a pretraining model. An output layer has no tokens here and is left behind."""
    where, weights = str(source.path), _weights(source)
    if _PROJECTION not in weights:
        raise ValueError(f"{where}: lacks {_PROJECTION}; it is no state dict of torchaudio's wav2vec 2.0")
    norm = "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in weights else "group"
    encoder = "wavlm" if _BIAS in weights else "wav2vec2"
    own, unknown = to_ours(weights, (*PAIRS, *ATTENTION[encoder], *NORM[norm]))
    others = [name for name in unknown if not name.startswith(("aux.", "mask_generator.", "logit_generator."))]
    if others:
        raise ValueError(f"{where}: unexpected {', '.join(others[:3])} ({len(others)} in all) in such a model")
    notes = ["the output layer is left behind: the file does not tell its tokens"] if "aux.weight" in weights else []
    dim = len(shaped(weights, _PROJECTION, 2, where))
    facts = {**_facts(source, norm, dim), **_bias_facts(weights, source), **overrides}
    if "num_heads" not in facts:
        raise ValueError(
            f"{where}: a model of width {dim} does not tell its attention heads; add --encoder.num_heads N"
        )
    if _MASK not in weights:
        notes.append("these files have no mask embedding: zeros; fine-tune with finetune.mask_prob 0 or let it train")
    own["mask_emb"] = weights.get(_MASK, torch.zeros(dim))
    table = encoder_table(own, facts, where)
    heads: Weights = {}
    objective: dict[str, Any] = {}
    if "logit_generator.label_embeddings" in weights:
        names = "logit_generator.final_proj", "logit_generator.label_embeddings"
        projection, rows = codeword_tensors(weights, *names, where)
        heads, objective = read_codewords(projection, rows, [len(rows)], {"special_rows": 0})
    told = entry(read_json(_beside(source.path)), "kind", "wav2vec2", str(_beside(source.path)))
    kind = "hubert" if heads else "wavlm" if encoder == "wavlm" else told
    return Model(kind, table, checked(own, table, where), heads, objective, None, tuple(notes))


def write(model: Model, out: Path) -> list[str]:
    """Write a state dict, and the arguments of `wav2vec2_model`, `wavlm_model` or `hubert_pretrain_model` beside it."""
    table, where = model.encoder, f"--to torchaudio {out}"
    name = table["name"]
    if name not in ATTENTION or table.get("position_depth", 1) > 1:
        raise ValueError(
            f"{where}: torchaudio has no such encoder ({name}); only plain wav2vec2 and wavlm are exported"
        )
    pairs = (*PAIRS, *ATTENTION[name], *NORM[table["conv_norm"]])
    weights = to_theirs({n: v for n, v in model.weights.items() if n != "mask_emb"}, pairs)
    if table["conv_norm"] == "group" and table["conv_bias"]:
        weights["feature_extractor.conv_layers.0.conv.bias"] = torch.zeros(table["conv_dim"])
    facts: dict[str, Any] = {"kind": model.kind, "normalise_waveform": table["normalise_waveform"]}
    facts["sample_rate"] = table.get("sample_rate", 16000)
    arguments = _arguments(table)
    sets = [] if model.ctc or name == "wavlm" else codeword_sets(model)
    notes = left_behind(model, CODEWORD_PARTS if len(sets) == 1 else (), "torchaudio")
    if len(sets) == 1:
        projection, bias, codewords = sets[0]
        special = model.objective.get("special_rows", 4)
        weights = {f"wav2vec2.{name}": value for name, value in weights.items()}
        weights |= {_MASK: model.weights["mask_emb"], "logit_generator.label_embeddings": codewords[special:]}
        weights |= {"logit_generator.final_proj.weight": projection, "logit_generator.final_proj.bias": bias}
        facts |= {"builder": "hubert_pretrain_model", "num_classes": len(codewords) - special, "final_dim": len(bias)}
        notes.append(f"the {special} codewords in front of the labels are left behind: torchaudio has none")
    else:
        facts["builder"] = f"{name}_model"
        arguments["aux_num_out"] = len(model.ctc.weight) if model.ctc else None
        notes.append(f"the mask embedding is left behind: {name}_model has none")
    if model.ctc:
        weights |= {"aux.weight": model.ctc.weight, "aux.bias": model.ctc.bias}
        facts["tokens"] = list(model.ctc.vocabulary.tokens)
    with written_whole(out) as partial:
        torch.save({name: value.clone() for name, value in weights.items()}, partial)
        write_json(_beside(out), {**facts, "arguments": arguments})
    return [*notes, f"{_beside(out)}: the arguments of torchaudio.models.{facts['builder']}"]


def _weights(source: SourceFile) -> Weights:
    """The state dict, without the prefix that encoders have inside pretraining models."""
    content = tensors(source.content, str(source.path))
    return {name.removeprefix("wav2vec2."): value for name, value in content.items()}


def _facts(source: SourceFile, norm: str, dim: int) -> dict[str, Any]:
    """Return what weights do not tell, from the JSON beside them; without that, what is usual at a width, if anything."""
    place = _beside(source.path)
    told, where = read_json(place), str(place)
    arguments: dict[str, Any] = entry(told, "arguments", {}, where)
    facts: dict[str, Any] = {"num_heads": _HEADS[dim]} if dim in _HEADS else {}
    facts["pre_norm"] = norm == "layer"
    facts["normalise_waveform"] = entry(told, "normalise_waveform", norm == "layer", where)
    rate = entry(told, "sample_rate", 16000, where)
    known = {"num_heads": ("encoder_num_heads", 1), **_FACTS}
    layers: list[Any] = entry(arguments, _LAYERS, [], where)
    if not all(isinstance(layer, list) and len(layer) == 3 for layer in layers):
        raise ValueError(f"{where}: {_LAYERS} {shown(layers)} is not a list of [dim, kernel, stride]; copy it again")
    if layers:
        facts |= {"conv_kernels": [layer[1] for layer in layers], "conv_strides": [layer[2] for layer in layers]}
    facts |= {ours: entry(arguments, key, kind, where) for ours, (key, kind) in known.items() if key in arguments}
    return facts if rate == 16000 else {**facts, "sample_rate": rate}


def _bias_facts(weights: Weights, source: SourceFile) -> dict[str, Any]:
    """Return what only WavLM has: its buckets tell their number and the heads, and nothing but the JSON how far the last one reaches."""
    if _BIAS not in weights:
        return {}
    where = str(_beside(source.path))
    arguments: dict[str, Any] = entry(read_json(_beside(source.path)), "arguments", {}, where)
    num_buckets, num_heads = shaped(weights, _BIAS, 2, str(source.path)).shape
    distance = entry(arguments, "encoder_max_distance", 800, where)
    return {"num_heads": num_heads, "num_buckets": num_buckets, "max_distance": distance}


def _arguments(table: dict[str, Any]) -> dict[str, Any]:
    bias = ("num_buckets", "max_distance") if table["name"] == "wavlm" else ()
    return {
        "extractor_mode": "group_norm" if table["conv_norm"] == "group" else "layer_norm",
        _LAYERS: [list(layer) for layer in convolutions(table)],
        "extractor_conv_bias": table["conv_bias"],
        "encoder_embed_dim": table["dim"],
        "encoder_projection_dropout": table["dropout_input"],
        "encoder_pos_conv_kernel": table["position_kernel"],
        "encoder_pos_conv_groups": table["position_groups"],
        "encoder_num_layers": table["num_layers"],
        "encoder_num_heads": table["num_heads"],
        "encoder_attention_dropout": table["attention_dropout"],
        "encoder_ff_interm_features": table["ffn_dim"],
        "encoder_ff_interm_dropout": table["activation_dropout"],
        "encoder_dropout": table["dropout"],
        "encoder_layer_norm_first": table["pre_norm"],
        "encoder_layer_drop": table["layer_drop"],
        **{f"encoder_{key}": table[key] for key in bias},
    }


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")
