"""Models of other packages as experiment folders, and experiment folders as models for other packages."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl import __version__
from audiossl import config as configuration
from audiossl.interop.checkpoint import load_weights, save_checkpoint
from audiossl.interop.encoder import CONFIG, INSIDE, RANDOM, UPSTREAM, is_foreign, load_encoder, open_source
from audiossl.interop.heads import family
from audiossl.interop.model import CTCHead, Model

if TYPE_CHECKING:
    from torch import nn

    from audiossl.nn.ssl_encoder import SSLEncoder

KINDS = ("hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")


def write_experiment(model: Model, out: Path, *, source: str, file_format: str) -> None:
    """Write a model as an experiment. A recogniser is a fine-tuned experiment whose encoder is an experiment inside it."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: exists already; remove it or choose another --out")
    run = {"version": __version__, "command": shlex.join(sys.argv)}
    run |= {"imported_from": source, "imported_format": file_format, "kind": model.kind}
    encoder = out if model.ctc is None else out / "encoder"
    tables: dict[str, Any] = {"encoder": model.encoder, "run": run}
    if model.objective:
        tables["objective"] = model.objective
    _write(encoder, tables, {f"encoder.{name}": value for name, value in model.weights.items()} | model.heads)
    if model.ctc is not None:
        tables = {
            "encoder": model.encoder,
            "adapter": {"name": "frozen"},
            "task": {"name": "ctc", "tokens": model.ctc.vocabulary.kind, "column": _column(model.ctc.vocabulary.kind)},
            "train": {"seed": 0},
            "run": {**run, "init": f"{INSIDE}{encoder.name}", "init_seed": 0},
        }
        model.ctc.vocabulary.save(out / "vocabulary.json")
        _write(out, tables, {"task.head.1.weight": model.ctc.weight, "task.head.1.bias": model.ctc.bias})


def open_experiment(source: str | Path, *, kind: str | None = None) -> Model:
    """Read an experiment, or a checkpoint in one, for export.

    kind: what it becomes, of `KINDS`; None: what it was imported as, or else what its objective calls for, before any fine-tuning. ValueError
    where a part of it has no counterpart elsewhere.
    """
    checkpoint, tables = open_source(source)
    encoder = load_encoder(source)
    _fold_adapters(encoder, source)
    if not hasattr(encoder, "mask_emb") or tables["encoder"]["name"] not in {"wav2vec2", "wavlm", "mhubert"}:
        raise ValueError(
            f"{source}: its encoder is {tables['encoder']['name']}, which no other package has; only wav2vec2, wavlm and mhubert are exported, and others --to onnx"
        )
    if tables["encoder"].get("alibi"):
        raise ValueError(
            f"{source}: its attention has a bias by distance (encoder.alibi), which no format here can hold but onnx"
        )
    stored = load_weights(checkpoint)
    objective = tables.get("objective", {})
    heads = {n: v for n, v in stored.items() if not n.startswith("encoder.")} if objective else {}
    ctc = _ctc(checkpoint, tables, stored, source) if tables.get("task", {}).get("name") == "ctc" else None
    return Model(
        kind=kind or kind_of(tables),
        encoder=tables["encoder"],
        weights=dict(encoder.state_dict()),
        heads=heads,
        objective=objective,
        ctc=ctc,
    )


def open_frames(source: str | Path) -> Model:
    """Read the encoder of an experiment alone, for a graph, which needs no counterpart elsewhere: any that gives frames of waveforms.

    ValueError for other encoders, and for adapters that cannot be folded into it.
    """
    from audiossl import registry
    from audiossl.encoders.vq_wav2vec import VQWav2Vec
    from audiossl.interop.formats.onnx import OUTPUT_LAYER
    from audiossl.nn.ssl_encoder import SSLEncoder

    _, tables = open_source(source)
    encoder: nn.Module = load_encoder(source)
    _fold_adapters(encoder, source)
    if not isinstance(encoder, SSLEncoder | VQWav2Vec):
        fitting = [
            n for n in registry.names("encoders") if issubclass(registry.get("encoders", n), SSLEncoder | VQWav2Vec)
        ]
        raise ValueError(
            f"{source}: its encoder is {tables['encoder']['name']}; only those that give frames of waveforms become graphs: {', '.join(fitting)}"
        )
    notes = (OUTPUT_LAYER,) if "task" in tables else ()
    return Model(kind_of(tables), tables["encoder"], dict(encoder.state_dict()), notes=notes)


def load_foreign(path: Path) -> SSLEncoder:
    """Load the encoder of a checkpoint of another package, in eval mode, without writing an experiment."""
    from audiossl.interop.encoder import build_encoder
    from audiossl.interop.formats import read_model

    _, model = read_model(path)
    encoder = build_encoder(model.encoder)
    encoder.load_state_dict(model.weights)
    encoder.eval()
    return encoder


def copy_heads(source: str, objective: nn.Module) -> list[str]:
    """Give an objective the heads of an import where all of them are among its own, by name and shape; returns what is to be said.

    What was trained here gives its encoder only, and so nothing to say: its heads are of its own labels and codes.
    """
    table, heads, notes = _imported_heads(source)
    if not heads:
        return list(notes)
    own = objective.state_dict()
    others = [name for name, value in heads.items() if name not in own or own[name].shape != value.shape]
    which = f"{len(heads)} tensors of its {table['name']} heads"
    if others:
        return [*notes, f"{source}: {which} are not used: the objective has no {others[0]} of that shape"]
    objective.load_state_dict(heads, strict=False)
    return [*notes, f"{source}: {which} are used too"]


def _imported_heads(source: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """([objective] table, what trains in its heads, notes) of another package's checkpoint, imported or not; empty for any other source."""
    from audiossl.interop.formats import read_model

    if source.startswith((RANDOM, UPSTREAM)):
        return {}, {}, ()
    if is_foreign(Path(source)):
        _, model = read_model(Path(source))
        table, heads, notes = model.objective, model.heads, tuple(f"{source}: {note}" for note in model.notes)
    else:
        checkpoint, tables = open_source(source)
        imported = "imported_from" in tables.get("run", {})
        table, notes = tables.get("objective", {}) if imported else {}, ()
        heads = load_weights(checkpoint) if table else {}
    state = ("encoder.", "gumbel_temperature", "temperature")  # these temperatures are where a schedule is
    return table, {name: value for name, value in heads.items() if not name.startswith(state)}, notes


def _column(tokens: Any) -> str:
    """Name the file that an imported recogniser is scored by."""
    from audiossl.tasks.ctc import CTC

    return CTC.Config(tokens=tokens).column


def _write(out: Path, tables: dict[str, Any], weights: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, 0, weights, {}, keep=1)
    configuration.write_toml(out / CONFIG, tables)


def kind_of(tables: dict[str, Any]) -> str:
    """What an experiment was imported or pretrained as; fine-tuning has no objective, and leaves it what its encoder was.

    Older fine-tuned experiments do not say what that was. Where it is gone, it counts as what such encoders usually are.
    """
    run, objective = tables.get("run", {}), tables.get("objective", {})
    if "kind" in run:
        return str(run["kind"])
    if "task" in tables:
        try:
            return kind_of(open_source(run["init"].removeprefix(RANDOM))[1])
        except ValueError:
            return usual_kind(tables["encoder"], objective)
    return usual_kind(tables["encoder"], objective)


def usual_kind(encoder: dict[str, Any], objective: dict[str, Any]) -> str:
    """What the field calls such a model: encoders that only one family has are that, others what they were trained as."""
    if encoder.get("position_depth", 1) > 1:
        return "data2vec-audio"
    if encoder["name"] != "wav2vec2":
        return "hubert" if encoder["name"] == "mhubert" else str(encoder["name"])
    named = str(objective.get("name")).replace("_", "-")
    return named if named in KINDS else family(objective) or "hubert"


def _fold_adapters(encoder: nn.Module, source: str | Path) -> None:
    """Fold LoRA's updates into the weights; ValueError for adapters that are layers of their own."""
    from audiossl.adapters.lora import LoRALinear, merge
    from audiossl.nn.attention import NoAdapter

    if any(isinstance(module, LoRALinear) for module in encoder.modules()):
        merge(encoder)
    for name, module in encoder.named_modules():
        if name.endswith("_adapter") and not isinstance(module, NoAdapter):
            raise ValueError(
                f"{source}: has adapters ({name}), which no other package would run; export one that was fine-tuned in full, frozen or by LoRA"
            )


def _ctc(checkpoint: Path, tables: dict[str, Any], stored: dict[str, Any], source: str | Path) -> CTCHead:
    from audiossl.nn.vocabulary import Vocabulary

    task = tables["task"]
    if task.get("layers", "last") != "last" or task.get("hidden_dim", 0):
        raise ValueError(
            f"{source}: its output layer reads {task.get('layers')} layers through {task.get('hidden_dim')} hidden units; "
            "elsewhere it is one linear layer on the last; fine-tune with task.layers last and task.hidden_dim 0"
        )
    if task.get("tokens") == "bpe":
        raise ValueError(
            f"{source}: writes word pieces, which no format here holds; export a recogniser of characters or phones"
        )
    vocabulary = Vocabulary.load(checkpoint.parent.parent / "vocabulary.json")
    return CTCHead(vocabulary, stored["task.head.1.weight"], stored["task.head.1.bias"])
