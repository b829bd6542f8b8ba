"""Weights and configurations as fairseq names them; s3prl's converted checkpoints and WavLM's hold the same in other envelopes."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from audiossl.interop.heads import (
    CODEWORD_PARTS,
    CONTRASTIVE_PARTS,
    FAIRSEQ,
    SPEAKERS_FAIRSEQ,
    codeword_sets,
    codeword_tensors,
    left_behind,
    read_codewords,
    read_contrastive,
    read_online_codes,
    read_speakers,
    write_contrastive,
)
from audiossl.interop.keys import old_weight_norm, to_ours, to_theirs
from audiossl.interop.model import Model, checked, convolutions, encoder_table, require_known
from audiossl.interop.source_file import entry, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.interop.keys import Pairs, Weights

Tables: TypeAlias = "dict[str, Any]"

_LAYER, _OURS = "encoder.layers.*.", "transformer.layers.*."
PAIRS: Pairs = (
    ("feature_extractor.conv_layers.*.0", "frontend.convs.*"),
    ("feature_extractor.conv_layers.0.2", "frontend.group_norm"),
    ("feature_extractor.conv_layers.*.2.1", "frontend.layer_norms.*"),
    ("layer_norm", "feature_norm"),
    ("post_extract_proj", "projection"),
    ("mask_emb", "mask_emb"),
    ("encoder.layer_norm", "transformer.norm"),
    *((f"{_LAYER}self_attn.{part}_proj", f"{_OURS}attention.{part}") for part in ("q", "k", "v", "out")),
    (f"{_LAYER}self_attn.grep_linear", f"{_OURS}attention.gate"),
    (f"{_LAYER}self_attn.grep_a", f"{_OURS}attention.gate_scale"),
    (f"{_LAYER}self_attn.relative_attention_bias", f"{_OURS}attention.bias"),
    (f"{_LAYER}self_attn_layer_norm", f"{_OURS}attention_norm"),
    (f"{_LAYER}fc1", f"{_OURS}ffn_in"),
    (f"{_LAYER}fc2", f"{_OURS}ffn_out"),
    (f"{_LAYER}final_layer_norm", f"{_OURS}ffn_norm"),
)
POSITIONS: dict[str, Pairs] = {
    "weight norm": (("encoder.pos_conv.0", "transformer.positions.conv"),),
    "batch norm": (
        ("encoder.pos_conv.0", "transformer.positions.norm"),
        ("encoder.pos_conv.1", "transformer.positions.conv"),
    ),
    "stacked": (("encoder.pos_conv.*.0", "transformer.positions.blocks.*.conv"),),
}
_WITHOUT = (
    "target_glu",
    "quantize_input",
    "deepnorm",
    "subln",
    "do_cnn_feat_stable_layernorm",
    "feature_extractor_cqt",
    "wav_normalize",
)
"""Options of fairseq's models, the last five of MERT's, that change what an encoder computes, and that ours do not have."""
_MASKING = {
    "mask_prob": 0.65,
    "mask_length": 10,
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_channel_prob": 0.0,
    "mask_channel_length": 10,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "no_mask_channel_overlap": False,
}
"""fairseq's defaults. Its fine-tuning replaces only keys that are there, so all that it replaces have to be."""
PROJECTIONS = ("quantizer.", "project_q.", "final_proj.")
_CODEWORDS = ("final_proj.", "label_embs_concat")
_SPEAKERS = (*_CODEWORDS, "quantizer.", "project_q.", "spk_proj.", "encoder.layer_norm_for_extract.")
_ONLINE_CODES = ("heads.", "_codebook")
_LEFT = (
    "_ema",
    "final_proj.",
    "project_q.",
    "quantizer.",
    "label_embs_concat",
    "target_glu.",
    "proj.",
    "spk_proj.",
    "layer_norm_for_extract.",
    "encoder.layer_norm_for_extract.",
    "_pre_encoder_",
    "encoder_cqt_model.",
    "encoder_mel_model.",
    *_ONLINE_CODES,
)


def read_state(
    weights: Weights, config: Tables, task: Tables, symbols: Sequence[Sequence[str]], overrides: Tables, where: str
) -> Model:
    """Read an encoder with its heads. config, task: of fairseq's model and task. symbols: of each label set of HuBERT, where they are known."""
    facts = _facts(config, task, where)
    heads = {n: v for n, v in weights.items() if n.startswith(_LEFT)}
    own, unknown = to_ours({n: v for n, v in weights.items() if n not in heads}, (*PAIRS, *_position_pairs(weights)))
    if unknown:
        raise ValueError(
            f"{where}: unexpected {', '.join(unknown[:3])} ({len(unknown)} in all) in an encoder of this family"
        )
    own |= _identity(own)
    table = encoder_table(own, told({**facts, **overrides}, where), where)
    temperature = entry(config, "logit_temp", 0.1, where)
    if _has_codewords(heads):
        kept, objective = _codewords(heads, task, [len(words) for words in symbols], temperature, where)
        if _is_sat(config) and kept:
            kept, objective = _with_speakers(kept, objective, heads, config, table, where)
    elif "_codebook0" in heads:
        kept, objective = read_online_codes(heads, table["dim"])
    elif _is_sat(config):
        kept, objective = {}, {}
    else:
        groups = entry(config, "latent_groups", 2, where)
        kept, objective = read_contrastive(heads, FAIRSEQ, groups=groups, temperature=temperature)
    parts = {"hubert": _CODEWORDS, "wav2vec2": PROJECTIONS, "unispeech_sat": _SPEAKERS, "dinosr": _ONLINE_CODES}
    read = parts.get(objective.get("name", ""), ())
    left = [name for name, value in heads.items() if value.any() and not (read and name.startswith(read))]
    notes = (f"{len(left)} tensors of heads are left behind, such as {left[0]}",) if left else ()
    objective |= _masks(objective, config, where)
    return Model(_kind(table, objective, config), table, checked(own, table, where), kept, objective, None, notes)


def _identity(own: Weights) -> Weights:
    """Return the projection that fairseq leaves out where convolutions are as wide as blocks, in our names; nothing where it is there, or they are not."""
    convs, blocks = own.get("feature_norm.weight"), own.get("transformer.norm.weight")
    if (
        "projection.weight" in own
        or convs is None
        or blocks is None
        or not convs.numel()
        or convs.shape != blocks.shape
    ):
        return {}
    return {"projection.weight": torch.eye(convs.numel()), "projection.bias": torch.zeros(convs.numel())}


def _has_codewords(heads: Weights) -> bool:
    """Whether HuBERT's heads are there: recognisers keep the codewords without what projects onto them, and of no label set there are none."""
    rows, projection = heads.get("label_embs_concat"), heads.get("final_proj.weight")
    return rows is not None and projection is not None and rows.shape != (0, *projection.shape[:1])


def _codewords(
    heads: Weights, task: Tables, sizes: list[int], temperature: float, where: str
) -> tuple[Weights, Tables]:
    """Return HuBERT's heads and their [objective] table. sizes: of its dictionaries, where the file has them."""
    projection, rows = codeword_tensors(heads, "final_proj", "label_embs_concat", where)
    sizes = sizes if sum(sizes) == len(rows) else [len(rows)]
    labels = task.get("labels")
    named = isinstance(labels, list | tuple) and len(labels) == len(sizes) and all(type(n) is str for n in labels)
    if len(projection[1]) not in {rows.shape[1], rows.shape[1] * len(sizes)}:
        return {}, {}  # of several label sets, and nothing tells which rows are whose
    rate = (entry(task, "label_rate", 50.0, where) if task.get("label_rate") is not None else 0.0) or 50.0
    known = {"labels": labels if named else None, "label_rate": rate, "temperature": temperature}
    return read_codewords(projection, rows, sizes, known)


def _with_speakers(
    kept: Weights, objective: Tables, heads: Weights, config: Tables, table: Tables, where: str
) -> tuple[Weights, Tables]:
    """Return UniSpeech-SAT's heads and their [objective] table; what is given, its codewords alone, where the others are none that ours has."""
    groups, layer = entry(config, "latent_groups", 2, where), entry(config, "utterance_contrastive_layer", 6, where)
    if (
        table["pre_norm"] and layer == table["num_layers"]
    ):  # ours has that layer behind the last norm, and this file before it
        return kept, objective
    speakers, told = read_speakers(heads, SPEAKERS_FAIRSEQ, groups=groups, normed=table["pre_norm"])
    if not speakers or told["final_dim"] != objective["final_dim"]:
        return kept, objective
    place = {"speaker_layer": layer} if "utterance_contrastive_layer" in config else {}
    return kept | speakers, {**objective, **told, **place}


def _masks(objective: Tables, config: Tables, where: str) -> Tables:
    """Return how frames were masked, for an [objective] table; nothing where there is no such table, or the file does not say."""
    kinds = {"mask_prob": float, "mask_length": int}
    given = [key for key in kinds if objective and config.get(key) is not None]
    return {key: entry(config, key, kinds[key](), where) for key in given}


def state_of(model: Model, where: str) -> Weights:
    """Return the weights of an encoder and its heads under fairseq's names, with the older spelling of weight norm.

    fairseq's models always have the projections that its heads need: zeros stand where there is no head.
    """
    table, weights = model.encoder, dict(model.weights)
    if table["dim"] == table["conv_dim"]:
        projection, bias = weights.pop("projection.weight"), weights.pop("projection.bias")
        if bias.any() or not torch.equal(projection, torch.eye(table["dim"])):
            raise ValueError(
                f"{where}: encoder.dim and conv_dim are both {table['dim']}; fairseq has no projection between such; choose another --to"
            )
    stacked = table.get("position_depth", 1) > 1
    positions = "batch norm" if table["name"] == "mhubert" else "stacked" if stacked else "weight norm"
    weights = old_weight_norm(to_theirs(weights, (*PAIRS, *POSITIONS[positions])))
    if table["conv_norm"] == "group" and table["conv_bias"]:
        weights["feature_extractor.conv_layers.0.0.bias"] = torch.zeros(table["conv_dim"])
    if model.kind == "wavlm":
        return weights
    sets = codeword_sets(model)
    if sets:
        weights["final_proj.weight"] = torch.cat([projection for projection, _, _ in sets])
        weights["final_proj.bias"] = torch.cat([bias for _, bias, _ in sets])
        weights["label_embs_concat"] = torch.cat([rows for _, _, rows in sets])
        return weights
    heads = write_contrastive(model, FAIRSEQ)
    final = final_dim(model)
    weights["final_proj.weight"], weights["final_proj.bias"] = torch.zeros(final, table["dim"]), torch.zeros(final)
    if model.kind == "wav2vec2":
        weights["project_q.weight"], weights["project_q.bias"] = (
            torch.zeros(final, table["conv_dim"]),
            torch.zeros(final),
        )
    return weights | heads


def config_of(model: Model) -> Tables:
    """Return the configuration of fairseq's model."""
    table, heads = model.encoder, write_contrastive(model, FAIRSEQ)
    config = {
        "_name": model.kind.replace("-", "_"),
        "extractor_mode": "default" if table["conv_norm"] == "group" else "layer_norm",
        "encoder_layers": table["num_layers"],
        "encoder_embed_dim": table["dim"],
        "encoder_ffn_embed_dim": table["ffn_dim"],
        "encoder_attention_heads": table["num_heads"],
        "activation_fn": "gelu",
        "layer_norm_first": table["pre_norm"],
        "conv_feature_layers": str(convolutions(table)),
        "conv_bias": table["conv_bias"],
        "conv_pos": table["position_kernel"],
        "conv_pos_groups": table["position_groups"],
        "dropout": table["dropout"],
        "attention_dropout": table["attention_dropout"],
        "activation_dropout": table["activation_dropout"],
        "encoder_layerdrop": table["layer_drop"],
        "dropout_input": table["dropout_input"],
        "dropout_features": table["dropout_features"],
        "feature_grad_mult": table["feature_grad_mult"],
        "final_dim": final_dim(model),
        "logit_temp": model.objective.get("temperature", 0.1),
        **{key: model.objective.get(key, usual) for key, usual in _MASKING.items()},
    }
    if model.kind == "hubert":
        rate = model.objective.get("label_rate", 50.0)
        config |= {"label_rate": rate, "untie_final_proj": bool(codeword_sets(model))}
    if model.kind == "wavlm":
        config |= {"relative_position_embedding": True, "gru_rel_pos": True, "normalize": table["normalise_waveform"]}
        config |= {"num_buckets": table["num_buckets"], "max_distance": table["max_distance"]}
    if heads:
        groups, entries, _ = model.heads["quantiser.codebook"].shape
        config |= {"quantize_targets": True, "latent_groups": groups, "latent_vars": entries}
    if table["name"] == "mhubert":
        config["conv_pos_batch_norm"] = True
    return config


def task_of(model: Model) -> Tables:
    """Return the configuration of fairseq's task."""
    task = {"sample_rate": model.encoder.get("sample_rate", 16000), "normalize": model.encoder["normalise_waveform"]}
    if model.kind != "hubert":
        return {"_name": "audio_pretraining", **task}
    labels = list(model.objective.get("labels", ()))
    return {
        "_name": "hubert_pretraining",
        **task,
        "labels": labels,
        "label_rate": model.objective.get("label_rate", 50.0),
    }


def symbols_of(model: Model) -> list[list[str]]:
    """Return the symbols of each label set of HuBERT, fairseq's four in front, as many as there are codewords."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    return [(special + [str(k) for k in range(len(rows))])[: len(rows)] for _, _, rows in codeword_sets(model)]


def as_published(model: Model, package: str) -> tuple[Model, list[str]]:
    """Return the model as what a package calls it, and what is to be said: UniSpeech-SAT without its second head is HuBERT there."""
    if model.kind == "unispeech-sat" and (model.ctc or codeword_sets(model)):
        model = replace(model, kind="hubert")
    if model.ctc:
        return model, []
    kept: tuple[str, ...] = CODEWORD_PARTS if model.kind == "hubert" and codeword_sets(model) else ()
    kept = CONTRASTIVE_PARTS if write_contrastive(model, FAIRSEQ) else kept
    return model, left_behind(model, kept, package)


def final_dim(model: Model) -> int:
    """Width of the projections of the heads, real or of zeros."""
    return int(model.objective.get("final_dim", 256))


def require_family(model: Model, kinds: Sequence[str], where: str) -> None:
    """Raise ValueError for a model that no class of these kinds holds."""
    table = model.encoder
    plain = table["name"] == ("wavlm" if model.kind == "wavlm" else "wav2vec2") and table.get("position_depth", 1) == 1
    if model.kind not in kinds or not plain:
        raise ValueError(
            f"{where}: {model.kind} with an encoder {table['name']} of position_depth {table.get('position_depth', 1)} "
            f"cannot be held; --kind is one of {', '.join(kinds)}, with plain positions"
        )
    if model.kind == "wav2vec2" and codeword_sets(model):
        raise ValueError(f"{where}: codewords belong to HuBERT; leave out --kind {model.kind}")


def _facts(config: Tables, task: Tables, where: str) -> Tables:
    """Return what weights do not tell, in our words; ValueError for options that our encoders do not compute."""
    require_known(
        where,
        activation_fn=(config.get("activation_fn", "gelu"), "gelu"),
        layer_type=(config.get("layer_type", "transformer"), "transformer"),
        **{option: (entry(config, option, False, where), False) for option in _WITHOUT},
    )
    names: dict[str, tuple[str, type[float]]] = {  # bool and int are floats to a type checker
        "num_heads": ("encoder_attention_heads", int),
        "pre_norm": ("layer_norm_first", bool),
        "dropout": ("dropout", float),
        "attention_dropout": ("attention_dropout", float),
        "activation_dropout": ("activation_dropout", float),
        "layer_drop": ("encoder_layerdrop", float),
        "dropout_input": ("dropout_input", float),
        "dropout_features": ("dropout_features", float),
        "feature_grad_mult": ("feature_grad_mult", float),
    }
    there = {ours: (theirs, kind) for ours, (theirs, kind) in names.items() if theirs in config}
    facts: Tables = {ours: entry(config, theirs, kind(), where) for ours, (theirs, kind) in there.items()}
    if "num_heads" in facts:  # fairseq's default, where the encoder's options are there
        facts.setdefault("pre_norm", False)
    facts |= conv_facts(config, "conv_feature_layers", where) | waveform_facts(config, task, where)
    if entry(config, "relative_position_embedding", False, where):
        facts["num_buckets"] = entry(config, "num_buckets", 320, where)
        facts["max_distance"] = entry(config, "max_distance", 1280, where)
    return facts


def conv_facts(config: Tables, key: str, where: str) -> Tables:
    """Return kernels and strides of the frontend as an entry of the configuration tells them; empty where it has none."""
    if key not in config:
        return {}
    _, kernels, strides = zip(*_conv_layers(config[key], key, where), strict=True)
    return {"conv_kernels": kernels, "conv_strides": strides}


def waveform_facts(config: Tables, task: Tables, where: str) -> Tables:
    """Return whether waveforms are normalised, which the task tells or else the model, and their rate where it is not the usual one."""
    told_by = task if "normalize" in task or config.get("normalize") == "${task.normalize}" else config
    normalise, rate = entry(told_by, "normalize", False, where), entry(task, "sample_rate", 16000, where)
    return {"normalise_waveform": normalise} | ({} if rate == 16000 else {"sample_rate": rate})


def told(facts: Tables, where: str) -> Tables:
    """Return the facts; ValueError where those that no weights show, and no default could stand for, are not among them."""
    needed = {"num_heads": "N", "pre_norm": "true (or false)"}
    missing = [f"--encoder.{key} {value}" for key, value in needed.items() if key not in facts]
    if missing:
        raise ValueError(f"{where}: does not tell how its encoder was built; add {' '.join(missing)}")
    return facts


_MAX_LAYERS, _MAX_TEXT = 100, 1000


def _conv_layers(text: Any, key: str, where: str) -> list[tuple[int, int, int]]:
    """Value of fairseq's little Python, sums and multiples of lists of tuples, without `eval` and of no more than 100 layers."""

    def value(node: ast.expr) -> list[Any]:
        if not isinstance(node, ast.BinOp):
            found: list[Any] = list(ast.literal_eval(node))
            return found
        if isinstance(node.op, ast.Add):
            layers = value(node.left) + value(node.right)
        elif isinstance(node.op, ast.Mult):
            once, times = value(node.left), int(ast.literal_eval(node.right))
            layers = once * times if len(once) * times <= _MAX_LAYERS else []
        else:
            layers = []
        if not 0 < len(layers) <= _MAX_LAYERS:
            raise ValueError
        return layers

    fault = f"{where}: {key} {shown(text)} is not a list of at most {_MAX_LAYERS} (dim, kernel, stride)"
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise ValueError(fault)
    try:
        layers = value(ast.parse(text.strip(), mode="eval").body)
        return [(int(dim), int(kernel), int(stride)) for dim, kernel, stride in layers]
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(fault) from error


def _position_pairs(weights: Weights) -> Pairs:
    if "encoder.pos_conv.0.running_mean" in weights:
        return POSITIONS["batch norm"]
    return POSITIONS["stacked" if "encoder.pos_conv.0.0.weight" in weights else "weight norm"]


def _name(config: Tables) -> str:
    """What fairseq registers the model as, in new files and old ones."""
    return next((n for n in (config.get("_name"), config.get("arch")) if isinstance(n, str)), "")


def _is_sat(config: Tables) -> bool:
    """Whether it is UniSpeech-SAT, whose quantiser is of its middle layer and of speakers."""
    return _name(config).startswith("unispeech_sat")


def _kind(table: Tables, objective: Tables, config: Tables) -> str:
    if table["name"] == "wavlm":
        return "wavlm"
    if table["name"] == "mhubert":
        return "hubert"
    if table["position_depth"] > 1:
        return "data2vec-audio"
    if _is_sat(config):
        return "unispeech-sat"
    name = _name(config)
    return "hubert" if objective.get("name") == "hubert" or "hubert" in name or name == "mert" else "wav2vec2"
