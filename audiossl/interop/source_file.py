"""What is looked at to tell a format: a path, and the content of a file of `torch.save`, read once and without running it."""

from __future__ import annotations

import json
import reprlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from audiossl.data.json_files import read_json_table
from audiossl.interop.safe_pickle import first_line, load_plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from audiossl.interop.keys import Weights

T = TypeVar("T")


class SourceFile:
    """A path, with what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def content(self) -> dict[str, Any]:
        """Content of a file of `torch.save` or safetensors; empty where that is no mapping, or the path is a folder."""
        if not self.path.is_file():
            return {}
        if self.path.suffix == ".safetensors":
            return dict(read_safetensors(self.path))
        content = load_plain(self.path)
        return content if isinstance(content, dict) else {}


def tensors(content: Mapping[Any, Any], where: str) -> Weights:
    """Of a mapping, what is a tensor; ValueError where a name is none that could be told in one line."""
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for name in found:
        if not name.isprintable():
            raise ValueError(f"{where}: holds a tensor named {shown(name)}; copy it again")
    return found


def read_safetensors(path: Path) -> Weights:
    """Tensors of a file of safetensors; ValueError where it is absent or damaged."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path}: no such file; copy the others' missing part too")
    try:
        content = load_file(path)
    except Exception as error:  # a header is JSON: damaged, it may ask for any type and shape
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"{path}: cannot be read as safetensors ({first_line(error)}); copy it again") from error
    return tensors(content, str(path))


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty where there is none; ValueError names the file of a fault."""
    return read_json_table(path, "copy it again") if path.is_file() else {}


def entry(table: Mapping[str, Any], key: str, default: T, where: str) -> T:
    """Return an entry of a configuration, `default` where it is absent; ValueError where it is of another type than that."""
    value: Any = table.get(key, default)
    value = float(value) if isinstance(default, float) and type(value) is int else value
    if type(value) is not type(default):
        raise ValueError(
            f"{where}: {key} = {shown(value)} is no {type(default).__name__}; mend it or copy the file again"
        )
    found: T = value
    return found


def shown(value: Any) -> str:
    """Return the start of what something is, in one line."""
    return " ".join(reprlib.repr(value).split())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people to read."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
