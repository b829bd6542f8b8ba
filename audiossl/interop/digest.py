"""The identity of an encoder: what its features depend on except the audio, so that a cache never serves those of another one."""

from __future__ import annotations

import hashlib
import inspect
import json
import os.path
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from audiossl import config as configuration
from audiossl import registry
from audiossl.interop.encoder import weights_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRAINING_ONLY = ("layer_drop", "feature_grad_mult", "init")
"""Settings that change nothing in evaluation, as dropouts do, or say where weights came from."""

_LIBRARIES = {*sys.stdlib_module_names, "audiossl", "torch"} - {"__main__"}
_EVERY_MODULE = frozenset(vars(nn.Module()))


def encoder_digest(encoder: nn.Module) -> str:
    """SHA-256 of an encoder's weights, class, settings and adapters, of the code of classes that are neither of this package nor torch's, and of their checkpoint.

    Settings with their default are left out, so that a new one which changes nothing by default does not make all features be computed again.
    """
    built_from: dict[str, dict[str, Any]] = getattr(encoder, "built_from", {})  # absent where no table describes it
    tables = {kind: _telling(kind, table) for kind, table in built_from.items()}
    own = list(_own_classes(encoder))
    code = sorted({_code_hash(cls) for _, cls in own})
    parts = [[name, cls.__qualname__, _plain_attributes(encoder.get_submodule(name))] for name, cls in own]
    facts: list[Any] = [weights_hash(encoder), type(encoder).__qualname__, tables, code, parts]
    if hasattr(encoder, "checkpoint_hash"):  # what is no torch parameter, in code of anybody's
        facts.append(encoder.checkpoint_hash)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _telling(kind: str, table: dict[str, Any]) -> dict[str, Any]:
    """Of the table of a plug-in, what tells its features from those of the same weights with other settings."""
    try:
        defaults = configuration.to_table(registry.get(kind, table["name"]).Config())
    except TypeError:  # not every setting has one
        defaults = {}
    keys = [key for key in {*table, *defaults} if key not in _TRAINING_ONLY and "dropout" not in key]
    told: dict[str, Any] = {key: table.get(key) for key in keys if table.get(key) != defaults.get(key)}
    inside = {key: inner for key, inner in (("encoder", "encoders"), ("adapter", "adapters")) if told.get(key)}
    return told | {key: _telling(inner, told[key]) for key, inner in inside.items()}


def _own_classes(encoder: nn.Module) -> Iterator[tuple[str, type]]:
    """Name of each part of an encoder with those of its classes whose code is neither of this package nor of torch or Python."""
    for name, module in encoder.named_modules():
        for cls in type(module).__mro__:
            if cls.__module__.partition(".")[0] not in _LIBRARIES:
                yield name, cls


def _code_hash(cls: type) -> str:
    """SHA-256 of the file that holds a class; nothing where it was typed in."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def contents_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files below a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = [[str(file.relative_to(path)), contents_hash(file)] for file in sorted(path.rglob("*")) if file.is_file()]
    return hashlib.sha256(json.dumps(inside).encode()).hexdigest()


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {key: _told(value) for key, value in vars(module).items() if key not in _EVERY_MODULE and _is_plain(value)}


def _told(value: Any) -> Any:
    """A plain value without what changes no features: the name of a device, or how the path of something that exists is spelled."""
    if isinstance(value, list | tuple):
        return [_told(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _told(inner) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    if os.path.isfile(value):  # noqa: PTH113 - Path raises OSError for long texts
        return contents_hash(Path(value))
    if os.path.isdir(value):  # noqa: PTH112
        return Path(value).resolve().name
    return "" if _is_device(value) else value


def _is_device(text: str) -> bool:
    try:
        torch.device(text)
    except RuntimeError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text or a collection of these: what a file could hold."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, bool | int | float | str)
