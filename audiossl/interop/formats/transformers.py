"""Folders of transformers: config.json and weights, with the tokens and the preprocessor of a recogniser (Wolf et al., 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audiossl.interop.ctc_tokens import written_rows
from audiossl.interop.formats._tokenizer import KIND, VOCAB, read_tokens, write_tokens
from audiossl.interop.heads import (
    CODEWORD_PARTS,
    CONTRASTIVE_PARTS,
    SPEAKER_PARTS,
    SPEAKERS_TRANSFORMERS,
    TRANSFORMERS,
    left_behind,
    read_codewords,
    read_contrastive,
    read_speakers,
    write_contrastive,
    write_speakers,
)
from audiossl.interop.keys import to_ours, to_theirs
from audiossl.interop.model import Model, checked, convolutions, encoder_table, require_known, shaped, written_whole
from audiossl.interop.safe_pickle import load_plain
from audiossl.interop.source_file import SourceFile, entry, read_json, read_safetensors, shown, tensors, write_json
from audiossl.nn.conv_frontend import CONV_KERNELS, CONV_STRIDES

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.keys import Pairs, Weights

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSOR = "preprocessor_config.json"

CLASSES = {
    "hubert": "Hubert",
    "wav2vec2": "Wav2Vec2",
    "wavlm": "WavLM",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeechSat",
    "data2vec-audio": "Data2VecAudio",
}
_LAYER, _OURS = "encoder.layers.*.", "transformer.layers.*."
PAIRS: Pairs = (
    ("feature_extractor.conv_layers.*.conv", "frontend.convs.*"),
    ("feature_projection.layer_norm", "feature_norm"),
    ("feature_projection.projection", "projection"),
    ("masked_spec_embed", "mask_emb"),
    ("encoder.pos_conv_embed.conv", "transformer.positions.conv"),
    ("encoder.pos_conv_embed.batch_norm", "transformer.positions.norm"),
    ("encoder.pos_conv_embed.layers.*.conv", "transformer.positions.blocks.*.conv"),
    ("encoder.layer_norm", "transformer.norm"),
    *((f"{_LAYER}attention.{part}_proj", f"{_OURS}attention.{part}") for part in ("q", "k", "v", "out")),
    (f"{_LAYER}attention.gru_rel_pos_linear", f"{_OURS}attention.gate"),
    (f"{_LAYER}attention.gru_rel_pos_const", f"{_OURS}attention.gate_scale"),
    (f"{_LAYER}attention.rel_attn_embed", f"{_OURS}attention.bias"),
    (f"{_LAYER}layer_norm", f"{_OURS}attention_norm"),
    (f"{_LAYER}feed_forward.intermediate_dense", f"{_OURS}ffn_in"),
    (f"{_LAYER}feed_forward.output_dense", f"{_OURS}ffn_out"),
    (f"{_LAYER}final_layer_norm", f"{_OURS}ffn_norm"),
)
NORM: dict[str, Pairs] = {
    "group": (("feature_extractor.conv_layers.0.layer_norm", "frontend.group_norm"),),
    "layer": (("feature_extractor.conv_layers.*.layer_norm", "frontend.layer_norms.*"),),
}
_PRETRAINING = ("quantizer.", "project_q.", "project_hid.")
_SPEAKERS = ("speaker_proj.", "label_embeddings_concat", "layer_norm_for_extract.")  # beside those, of UniSpeech-SAT
_HEADS = (
    (*_PRETRAINING, *_SPEAKERS, "lm_head."),  # read below
    ("ctc_proj.", "dropout_features."),
    ("projector.", "classifier.", "layer_weights", "tdnn.", "objective."),
    ("feature_extractor.weight", "feature_extractor.bias"),  # of x-vectors; the encoder's own have longer names
)


_FACTS: dict[str, tuple[str, Any]] = {
    "num_heads": ("num_attention_heads", 12),
    "pre_norm": ("do_stable_layer_norm", False),
    "dropout": ("hidden_dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.1),
    "layer_drop": ("layerdrop", 0.1),
    "dropout_input": ("feat_proj_dropout", 0.0),
    "dropout_features": ("feat_quantizer_dropout", 0.0),
}
_WAVLM_FACTS: dict[str, tuple[str, Any]] = {
    "num_buckets": ("num_buckets", 320),
    "max_distance": ("max_bucket_distance", 800),
}
"""Our key: (theirs, what it is where the file leaves it out)."""


def sniff(source: SourceFile) -> bool:
    """Whether it is a folder with the configuration of a speech encoder."""
    return str(read_json(source.path / CONFIG).get("model_type")) in CLASSES


def read(source: SourceFile, overrides: dict[str, Any]) -> Model:
    """Read the encoder and, where they are there, a CTC head or wav2vec 2.0's pretraining heads."""
    folder = source.path
    config = read_json(folder / CONFIG)
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        raise ValueError(f"{folder}: {CONFIG} has model_type {kind!r}; known: {', '.join(CLASSES)}")
    facts = _facts(folder, config, kind)
    everything = _weights(folder)
    prefix = kind.replace("-", "_") + "."
    own = {n.removeprefix(prefix): v for n, v in everything.items() if not n.startswith(sum(_HEADS, ()))}
    rest = {n: v for n, v in everything.items() if n.startswith(sum(_HEADS, ()))}
    norm = "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in own else "group"
    weights, unknown = to_ours(own, (*PAIRS, *NORM[norm]))
    if unknown:
        raise ValueError(f"{folder}: unexpected {', '.join(unknown[:3])} ({len(unknown)} in all) in a {kind} encoder")
    notes = []
    if "mask_emb" not in weights:
        import torch

        notes.append("no mask embedding, as it was never trained: zeros")
        weights["mask_emb"] = torch.zeros(len(shaped(weights, "projection.weight", 2, str(folder))))
    if "normalise_waveform" not in overrides and not _preprocessor_of(folder)[0]:
        notes.append(_guess(facts["normalise_waveform"]))
    table = encoder_table(weights, {**facts, **overrides}, str(folder))
    heads, objective = _read_heads(folder, config, kind, rest, normed=table["pre_norm"])
    recogniser = "lm_head.weight" in rest
    ctc = read_tokens(folder, config, rest) if recogniser and (folder / VOCAB).is_file() else None
    if recogniser and not ctc:
        notes.append(f"the output layer is left behind: no {VOCAB} beside the weights tells its tokens")
    known = ("lm_head.",) if recogniser else ((*_PRETRAINING, *_SPEAKERS) if heads else ())
    left = [name for name in rest if not name.startswith(known)] if known else list(rest)
    if left:
        notes.append(f"{len(left)} tensors of heads are left behind, such as {left[0]}")
    return Model(kind, table, checked(weights, table, str(folder)), heads, objective, ctc, tuple(notes))


def write(model: Model, out: Path) -> list[str]:
    """Write a folder that `from_pretrained` and, for characters, `pipeline("automatic-speech-recognition", ...)` load."""
    from safetensors.torch import save_file

    kind, table = _writable(model), model.encoder
    weights = to_theirs(model.weights, (*PAIRS, *NORM[table["conv_norm"]]))
    if table["conv_norm"] == "group" and table["conv_bias"]:
        weights["feature_extractor.conv_layers.0.conv.bias"] = weights["feature_projection.layer_norm.bias"].new_zeros(
            table["conv_dim"]
        )
    heads = {} if model.ctc else write_contrastive(model, TRANSFORMERS) or write_speakers(model)
    kept = (*CODEWORD_PARTS, *SPEAKER_PARTS) if kind == "unispeech-sat" else CONTRASTIVE_PARTS
    notes = left_behind(model, kept if heads else (), "transformers")
    if heads or model.ctc:
        weights = {f"{kind.replace('-', '_')}.{name}": value for name, value in weights.items()} | heads
    tokens: list[str] = []
    if model.ctc:
        tokens, rows, bias, left = written_rows(model.ctc, ("<pad>", "<unk>"), blank="<pad>")
        weights |= {"lm_head.weight": rows, "lm_head.bias": bias}
        notes += left
    suffix = "ForCTC" if model.ctc else "ForPreTraining" if heads else "Model"
    with written_whole(out) as partial:
        partial.mkdir()
        own = {name: value.contiguous() for name, value in weights.items()}
        save_file(own, partial / WEIGHTS, metadata={"format": "pt"})
        write_json(partial / CONFIG, _config(model, CLASSES[kind] + suffix, heads, tokens))
        write_json(partial / PREPROCESSOR, _preprocessor(model))
        if model.ctc:
            notes += write_tokens(tokens, model.ctc.vocabulary.kind, partial)
    return notes


def _facts(folder: Path, config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return what weights do not tell, in our words; ValueError for options that our encoders do not compute."""
    require_known(
        f"{folder}/{CONFIG}",
        hidden_act=(config.get("hidden_act", "gelu"), "gelu"),
        feat_extract_activation=(config.get("feat_extract_activation", "gelu"), "gelu"),
        layer_norm_eps=(config.get("layer_norm_eps", 1e-5), 1e-5),
        feat_proj_layer_norm=(config.get("feat_proj_layer_norm", True), True),
        add_adapter=(bool(config.get("add_adapter", False)), False),
    )
    if config.get("adapter_attn_dim") is not None:
        raise ValueError(
            f"{folder}/{CONFIG}: adapter_attn_dim = {shown(config['adapter_attn_dim'])}: adapters of MMS are not imported; import the encoder "
            "without them, such as facebook/mms-1b, and fine-tune it with `--adapter.name mms` (recipe ctc_mms)"
        )
    layer = config.get("feat_extract_norm", "layer" if kind == "data2vec-audio" else "group") == "layer"
    known = _WAVLM_FACTS if kind == "wavlm" else {}
    facts = {
        ours: entry(config, theirs, usual, f"{folder}/{CONFIG}") for ours, (theirs, usual) in (_FACTS | known).items()
    }
    facts |= {"conv_kernels": config.get("conv_kernel", CONV_KERNELS)}
    facts |= {"conv_strides": config.get("conv_stride", CONV_STRIDES)}
    preprocessor, place = _preprocessor_of(folder)
    facts["normalise_waveform"] = entry(preprocessor, "do_normalize", layer, str(place))
    rate = entry(preprocessor, "sampling_rate", 16000, str(place))
    return facts if rate == 16000 else {**facts, "sample_rate": rate}


def _preprocessor_of(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return what a folder says about its waveforms, and where; transformers 5 writes that into `processor_config.json` beside a tokenizer."""
    place = folder / PREPROCESSOR
    if place.is_file():
        return read_json(place), place
    processor = folder / "processor_config.json"
    told: dict[str, Any] = entry(read_json(processor), "feature_extractor", {}, str(processor))
    return (told, processor) if told else ({}, place)


def _guess(normalise: bool) -> str:
    taken, other = ("are normalised", "false") if normalise else ("are not normalised", "true")
    return f"no {PREPROCESSOR}: taken that waveforms {taken}, as usual with its convolutions; else give --encoder.normalise_waveform {other}"


def _weights(folder: Path) -> Weights:
    """All tensors of a folder, whichever of the usual files holds them."""
    for name, load in ((WEIGHTS, read_safetensors), (PICKLE, _read_pickle)):
        if (folder / name).is_file():
            return load(folder / name)
        index = folder / f"{name}.index.json"
        parts: dict[str, Any] = entry(read_json(index), "weight_map", {}, str(index))
        if parts:
            files = sorted({str(part) for part in parts.values()})
            return {key: value for part in files for key, value in load(folder / part).items()}
    raise ValueError(f"{folder}: has neither {WEIGHTS} nor {PICKLE}; download its weights too")


def _read_pickle(path: Path) -> Weights:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; copy the others' missing part too")
    content = load_plain(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no tensors by name; copy it again")
    return tensors(content, str(path))


def _read_heads(
    folder: Path, config: dict[str, Any], kind: str, rest: Weights, *, normed: bool
) -> tuple[Weights, dict[str, Any]]:
    """Return the pretraining heads and their [objective] table; both are empty where they are none that ours has, as UniSpeech's."""
    where = f"{folder}/{CONFIG}"
    groups = entry(config, "num_codevector_groups", 2, where)
    temperature = entry(config, "contrastive_logits_temperature", 0.1, where)
    if kind == "wav2vec2":
        return read_contrastive(rest, TRANSFORMERS, groups=groups, temperature=temperature)
    names = ("project_hid.weight", "project_hid.bias", "label_embeddings_concat")
    if kind != "unispeech-sat" or any(name not in rest for name in names):
        return {}, {}
    weight, bias, codewords = (rest[name] for name in names)
    speakers, told = read_speakers(rest, SPEAKERS_TRANSFORMERS, groups=groups, normed=normed)
    if not speakers or {weight.shape[:-1], bias.shape, codewords.shape[1:]} != {(told["final_dim"],)}:
        return {}, {}
    heads, objective = read_codewords((weight, bias), codewords, [len(codewords)], {"temperature": temperature})
    return heads | speakers, {**objective, **told}


def _writable(model: Model) -> str:
    """Return the model_type; ValueError where that family cannot hold the encoder."""
    table, kind = model.encoder, model.kind
    if kind not in CLASSES:
        raise ValueError(f"--kind {kind}: transformers has no such speech encoder; known: {', '.join(CLASSES)}")
    stacked = table.get("position_depth", 1) > 1
    fits = {
        "wavlm": table["name"] == "wavlm",
        "hubert": table["name"] in {"wav2vec2", "mhubert"} and not stacked,
        "data2vec-audio": table["name"] == "wav2vec2"
        and stacked
        and table["conv_norm"] == "layer"
        and not table["pre_norm"],
    }
    if not fits.get(kind, table["name"] == "wav2vec2" and not stacked):
        raise ValueError(
            f"--kind {kind}: transformers' {CLASSES[kind]} cannot hold this encoder ({table['name']}); choose another kind"
        )
    return kind


def _config(model: Model, architecture: str, heads: Weights, tokens: list[str]) -> dict[str, Any]:
    table, kind = model.encoder, model.kind
    depth = table.get("position_depth", 1)
    dims, kernels, strides = zip(*convolutions(table), strict=True)
    config: dict[str, Any] = {
        "model_type": kind,
        "architectures": [architecture],
        "hidden_size": table["dim"],
        "num_hidden_layers": table["num_layers"],
        "num_attention_heads": table["num_heads"],
        "intermediate_size": table["ffn_dim"],
        "hidden_act": "gelu",
        "hidden_dropout": table["dropout"],
        "attention_dropout": table["attention_dropout"],
        "activation_dropout": table["activation_dropout"],
        "feat_proj_dropout": table["dropout_input"],
        "feat_quantizer_dropout": table["dropout_features"],
        "layerdrop": table["layer_drop"],
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": table["conv_norm"],
        "feat_extract_activation": "gelu",
        "conv_dim": list(dims),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "conv_bias": table["conv_bias"],
        "num_conv_pos_embeddings": table["position_kernel"] if depth == 1 else depth,
        "num_conv_pos_embedding_groups": table["position_groups"],
        "do_stable_layer_norm": table["pre_norm"],
        "torch_dtype": "float32",
    }
    if depth > 1:
        config["conv_pos_kernel_size"] = table["position_kernel"]
    if table["name"] == "mhubert":
        config["conv_pos_batch_norm"] = True
    if kind == "wavlm":
        config |= {"num_buckets": table["num_buckets"], "max_bucket_distance": table["max_distance"]}
    if model.ctc:
        config |= {"vocab_size": len(tokens), "pad_token_id": 0, KIND: model.ctc.vocabulary.kind}
    if heads:
        sizes = {"codevector_dim": model.objective["final_dim"], "proj_codevector_dim": model.objective["final_dim"]}
        sizes |= {"num_codevector_groups": model.heads["quantiser.codebook"].shape[0]}
        config |= {**sizes, "num_codevectors_per_group": model.heads["quantiser.codebook"].shape[1]}
    if "label_embeddings_concat" in heads:
        config["num_clusters"] = len(heads["label_embeddings_concat"])
    return config


def _preprocessor(model: Model) -> dict[str, Any]:
    table = model.encoder
    joined = model.ctc is not None and model.ctc.vocabulary.kind == "characters"  # which have a tokenizer
    return {
        **({"processor_class": "Wav2Vec2Processor"} if joined else {}),
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": table.get("sample_rate", 16000),
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": table["normalise_waveform"],
        "return_attention_mask": True,
    }
