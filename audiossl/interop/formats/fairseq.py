"""fairseq's `.pt` files (Ott et al., 2019), and WavLM's, which are alike: read without fairseq, whose classes are never imported.

Written files load in fairseq 0.12.2 itself, with its heads, and its recipes for recognisers start from them. They name their own folder, where it finds
dictionaries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from audiossl.interop.ctc_tokens import ctc_head, written_rows
from audiossl.interop.formats._data2vec2 import is_data2vec2, read_data2vec2
from audiossl.interop.formats._fairseq import (
    PROJECTIONS,
    as_published,
    config_of,
    final_dim,
    read_state,
    require_family,
    state_of,
    symbols_of,
    task_of,
)
from audiossl.interop.model import require_absent, shaped, written_whole
from audiossl.interop.source_file import SourceFile, entry, tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from audiossl.interop.keys import Weights
    from audiossl.interop.model import Model
    from audiossl.nn.vocabulary import TokenKind

DICTIONARY = "dict.{}.txt"
LABELS: dict[TokenKind, str] = {"characters": "ltr", "phones": "phn", "words": "wrd"}
"""How fairseq's recipes name what a recogniser writes (`task.labels`), and the dictionary of it."""
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""What every dictionary of fairseq begins with; a recogniser's blank is the first."""
_UNTRAINED = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
"""What fairseq's loader asks of the last optimiser of a file."""


def sniff(source: SourceFile) -> bool:
    """Whether it has weights beside a configuration, new or old."""
    return isinstance(source.content.get("model"), dict) and ("cfg" in source.content or "args" in source.content)


def read(source: SourceFile, overrides: dict[str, Any]) -> Model:
    """Read the encoder with its pretraining heads, or with its CTC layer where the tokens are in the file or in `dict.<labels>.txt` beside it."""
    content, where = source.content, str(source.path)
    if not sniff(source):
        raise ValueError(f"{where}: has no 'model' beside 'cfg' or 'args'; it is no checkpoint of fairseq")
    config = _part(content, "cfg", where) or _part(content, "args", where)
    model, task = _own(config, "model"), _own(config, "task")
    weights, layer = _unwrapped(tensors(content["model"], where))
    label = _label(task)
    inner = model.get("w2v_args")
    if isinstance(inner, dict):  # a recogniser says inside what its encoder was
        outer, model, task = task, _own(inner, "model"), _own(inner, "task")
        task = {**task, "normalize": outer.get("normalize", task.get("normalize"))}
    task = {key: value for key, value in task.items() if value is not None}
    state = _part(content, "task_state", where)
    symbols = [words for words in map(_symbols, entry(state, "dictionaries", [], where)) if words]
    symbols = symbols or _label_symbols(task, source.path)
    if is_data2vec2(weights):
        read = read_data2vec2(weights, model, task, overrides, where)
    else:
        read = read_state(weights, model, task, symbols, overrides, where)
    if not layer:
        return read
    tokens = _tokens(state, source.path, label)
    if not tokens:
        lacking = DICTIONARY.format(label or LABELS["characters"])
        return replace(
            read, notes=(*read.notes, f"the output layer is left behind: no {lacking} beside the file tells its tokens")
        )
    kind = next((kind for kind, name in LABELS.items() if name == label), None)
    weight, bias = shaped(layer, "weight", 2, f"{where}: proj"), shaped(layer, "bias", 1, f"{where}: proj")
    head = ctc_head(
        tokens, weight, bias, kind=kind, blank="<s>", unknown="<unk>", boundary="|", where=f"{where}: tokens"
    )
    return replace(read, ctc=head, heads={}, objective={})


def write(model: Model, out: Path) -> list[str]:
    """Write a checkpoint; a recogniser's tokens, as HuBERT's labels, go to `dict.<labels>.txt` beside it."""
    where = f"--to fairseq {out}"
    model, notes = as_published(replace(model, heads={}, objective={}) if model.ctc else model, "fairseq")
    require_family(model, ("hubert", "wav2vec2", "wavlm"), where)
    if model.ctc and model.kind == "wavlm":
        raise ValueError(f"{where}: fairseq has no recogniser on wavlm; export it to transformers")
    config, task, weights = config_of(model), task_of(model) | _places(model, out), state_of(model, where)
    if model.kind == "hubert":  # fairseq's has codewords always, if only of no label set
        weights.setdefault("label_embs_concat", torch.zeros(0, final_dim(model)))
    beside: dict[str, str] = {}
    whole = {"model": config, "task": task, "criterion": None, "lr_scheduler": None}  # fine-tuning empties these two
    content: dict[str, Any] = {"args": None, "cfg": whole, "model": weights}
    if model.kind == "wavlm":
        content = {"cfg": config, "model": weights}
    elif model.ctc:
        tokens, rows, bias, left = written_rows(model.ctc, _SPECIAL, blank="<s>")
        content = _recogniser(model, (rows, bias), config, task, weights, LABELS[model.ctc.vocabulary.kind])
        beside[DICTIONARY.format(LABELS[model.ctc.vocabulary.kind])] = _lines_of(tokens[4:])
        notes += left
    else:
        names = zip(model.objective.get("labels", ()), symbols_of(model), strict=False)
        beside = {DICTIONARY.format(label): _lines_of(words[4:]) for label, words in names}
    require_absent(out)
    for name, text in beside.items():
        path = out.parent / name
        if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
            raise ValueError(f"{path}: exists already and belongs to another checkpoint; choose another folder")
    with written_whole(out) as partial:
        torch.save({**content, "task_state": {}, "extra_state": {}, "optimizer_history": [_UNTRAINED]}, partial)
        for name, text in beside.items():
            (out.parent / name).write_text(text, encoding="utf-8")
            notes.append(
                f"{out.parent / name}: its tokens; elsewhere, fairseq finds them by arg_overrides={{'data': FOLDER, 'label_dir': FOLDER}}"
            )
    return notes


def _places(model: Model, out: Path) -> dict[str, str]:
    """Return where fairseq is to look for dictionaries, by key of its task."""
    folder = str(out.parent.resolve())
    return {"data": folder, "label_dir": folder} if model.kind == "hubert" else {"data": folder}


def _unwrapped(weights: Weights) -> tuple[Weights, Weights]:
    """Of a recogniser, its encoder's weights and its output layer; of anything else, the weights and nothing."""
    prefix = "w2v_encoder."
    if not any(name.startswith(prefix) for name in weights):
        return weights, {}
    own = {name.removeprefix(prefix): value for name, value in weights.items()}
    layer = {name.removeprefix("proj."): value for name, value in own.items() if name.startswith("proj.")}
    inside = {name: value for name, value in own.items() if not name.startswith("proj.")}
    return {name.removeprefix("w2v_model."): value for name, value in inside.items()}, layer


def _part(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Table inside a table; empty where there is none, which fairseq writes as None."""
    return entry(table, key, {}, where) if table.get(key) is not None else {}


def _own(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Table of a model or a task; old checkpoints have one table for everything, in which such a key is a name."""
    part = config.get(key)
    return part if isinstance(part, dict) and part else config


def _symbols(dictionary: Any) -> list[str]:
    symbols = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    return [str(token) for token in symbols] if isinstance(symbols, list) else []


def _label_symbols(task: dict[str, Any], path: Path) -> list[list[str]]:
    """Symbols of each label set of HuBERT, from the dictionaries beside a checkpoint that holds none; empty where one is missing."""
    labels = task.get("labels")
    names = [DICTIONARY.format(label) for label in labels] if isinstance(labels, list | tuple) else []
    found = [_lines(path.parent / name) for name in names if "/" not in name and (path.parent / name).is_file()]
    return found if len(found) == len(names) else []


def _label(task: dict[str, Any]) -> str:
    """Return the label set of a recogniser, which HuBERT's task has in a list; "" where the file does not tell."""
    labels = task.get("labels")
    label = labels[0] if isinstance(labels, list | tuple) and len(labels) == 1 else labels
    return label if isinstance(label, str) and "/" not in label else ""


def _tokens(state: dict[str, Any], path: Path, label: str) -> list[str]:
    """Tokens of a recogniser; letters are the usual ones, where nothing has the name of its labels."""
    known = _symbols(state.get("target_dictionary"))
    if known:
        return known
    beside = [path.parent / DICTIONARY.format(name) for name in (label, LABELS["characters"])]
    return next((_lines(place) for place in beside if place.is_file()), [])


def _lines(dictionary: Path) -> list[str]:
    """Symbols of a dictionary, fairseq's own four in front."""
    try:
        lines = dictionary.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{dictionary}: is no text in UTF-8 ({error.reason}); copy it again") from error
    return [*_SPECIAL, *(line.rsplit(" ", 1)[0] for line in lines if line.strip())]


def _lines_of(symbols: list[str]) -> str:
    """Text of a dictionary: a line for each symbol after fairseq's own four."""
    return "".join(f"{symbol} 1\n" for symbol in symbols)


def _recogniser(
    model: Model,
    layer: tuple[Tensor, Tensor],
    config: dict[str, Any],
    task: dict[str, Any],
    weights: Weights,
    label: str,
) -> dict[str, Any]:
    rows, bias = layer
    inside = {f"w2v_encoder.w2v_model.{n}": v for n, v in weights.items() if not n.startswith(PROJECTIONS)}
    name = "hubert_ctc" if model.kind == "hubert" else "wav2vec_ctc"
    shared = {key: task[key] for key in ("normalize", "data")}
    outer = {"_name": name, "w2v_args": {"model": config, "task": task}, **shared}
    outside = {"_name": "audio_finetuning", "labels": label, **shared}
    everything = {**inside, "w2v_encoder.proj.weight": rows, "w2v_encoder.proj.bias": bias}
    return {"args": None, "cfg": {"model": outer, "task": outside}, "model": everything}
