"""data2vec 2.0 as fairseq's examples name its parts: blocks in two places, fused query, key and value, one bias by distance (Baevski et al., 2023)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from audiossl.interop.formats._fairseq import conv_facts, told, waveform_facts
from audiossl.interop.keys import to_ours
from audiossl.interop.model import Model, checked, encoder_table, require_known, shaped
from audiossl.interop.source_file import entry

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.interop.keys import Pairs, Weights

Tables: TypeAlias = "dict[str, Any]"

_AUDIO = "modality_encoders.AUDIO."
_LAYER, _OURS = "blocks.*.", "transformer.layers.*."
_PAIRS: Pairs = (
    ("local_encoder.conv_layers.*.0", "frontend.convs.*"),
    ("local_encoder.conv_layers.0.2", "frontend.group_norm"),
    ("local_encoder.conv_layers.*.2.1", "frontend.layer_norms.*"),
    ("project_features.1", "feature_norm"),
    ("project_features.2", "projection"),
    ("context_encoder.norm", "transformer.norm"),
    ("relative_positional_encoder.*.0", "transformer.positions.blocks.*.conv"),
    (f"{_LAYER}attn.qkv", f"{_OURS}attention.qkv"),
    (f"{_LAYER}attn.proj", f"{_OURS}attention.out"),
    (f"{_LAYER}norm1", f"{_OURS}attention_norm"),
    (f"{_LAYER}mlp.fc1", f"{_OURS}ffn_in"),
    (f"{_LAYER}mlp.fc2", f"{_OURS}ffn_out"),
    (f"{_LAYER}norm2", f"{_OURS}ffn_norm"),
)
_SCALE = "transformer.layers.0.attention.bias.scale"
_LEFT = ("decoder.", "shared_decoder.", "recon_proj.")
_FACTS: dict[str, tuple[str, float]] = {
    "dropout": ("encoder_dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "layer_drop": ("layerdrop", 0.0),
    "dropout_input": ("dropout_input", 0.0),
}
"""Our key: (theirs, fairseq's default)."""


def is_data2vec2(weights: Weights) -> bool:
    """Whether weights are of such a model, for audio."""
    return any(name.startswith(_AUDIO) for name in weights)


def read_data2vec2(weights: Weights, config: Tables, task: Tables, overrides: Tables, where: str) -> Model:
    """Read the encoder. Its masked frames are zeros, so the mask embedding is; decoders are left behind."""
    numbered = _numbered({name.removeprefix(_AUDIO): value for name, value in weights.items()})
    scale = numbered.pop("alibi_scale", None)
    left = [name for name in numbered if name.startswith(_LEFT)]
    own, unknown = to_ours({name: value for name, value in numbered.items() if name not in left}, _PAIRS)
    if unknown:
        raise ValueError(
            f"{where}: unexpected {', '.join(unknown[:3])} ({len(unknown)} in all) in a data2vec 2.0 of audio"
        )
    facts = told({**_facts(config, task, where), "alibi": scale is not None, **overrides}, where)
    own["mask_emb"] = torch.zeros(len(shaped(own, "projection.weight", 2, where)))
    table = encoder_table(own, facts, where)
    if scale is not None:
        own[_SCALE] = _scale_of_heads(scale, table["num_heads"], where)
    notes = ["no mask embedding: zeros, as its masked frames were"]
    if left:
        notes.append(f"{len(left)} tensors of its decoder are left behind, such as {left[0]}")
    return Model("data2vec-audio", table, checked(own, table, where), notes=tuple(notes))


def _numbered(weights: Weights) -> Weights:
    """Count blocks through, the context encoder's first, and convolutions of positions from 0, where theirs begin behind a transposition."""
    count = len({name.split(".")[2] for name in weights if name.startswith("context_encoder.blocks.")})
    shift = {"context_encoder.blocks": 0, "blocks": count, "relative_positional_encoder": -1}
    numbered: Weights = {}
    for name, value in weights.items():
        match = re.fullmatch(rf"({'|'.join(map(re.escape, shift))})\.(\d{{1,4}})\.(.+)", name)
        if match:
            name = f"{match[1].removeprefix('context_encoder.')}.{int(match[2]) + shift[match[1]]}.{match[3]}"
        numbered[name] = value
    return numbered


def _facts(config: Tables, task: Tables, where: str) -> Tables:
    """Return what weights do not tell, in our words; ValueError for options that our encoders do not compute."""
    require_known(
        where,
        layer_norm_first=(config.get("layer_norm_first", False), False),
        norm_eps=(config.get("norm_eps", 1e-5), 1e-5),
        norm_affine=(config.get("norm_affine", True), True),
    )
    modalities: Tables = entry(config, "modalities", {}, where)
    audio: Tables = entry(modalities, "audio", {}, where)
    facts: Tables = {ours: entry(config, theirs, usual, where) for ours, (theirs, usual) in _FACTS.items()}
    if "num_heads" in config:
        facts["num_heads"] = entry(config, "num_heads", 12, where)
    facts |= conv_facts(audio, "feature_encoder_spec", where) | waveform_facts(config, task, where)
    return {**facts, "pre_norm": False, "feature_grad_mult": entry(audio, "local_grad_mult", 1.0, where)}


def _scale_of_heads(scale: Tensor, heads: int, where: str) -> Tensor:
    """(head,), of (1, 1, head or 1, 1, 1); ValueError where each block has a scale of its own."""
    own = scale.ndim in {4, 5} and scale.numel() == scale.shape[-3]
    if not own or scale.numel() not in {1, heads}:
        raise ValueError(
            f"{where}: alibi_scale has the shape {list(scale.shape)}; only one scale for each of {heads} heads, or one for all, can be imported"
        )
    return scale.flatten().expand(heads)
