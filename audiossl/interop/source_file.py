"""What is looked at to tell a format: a path, and the content of a file of `torch.save`, read once and without running it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from audiossl.interop.safe_pickle import load_plain

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.keys import Weights


class SourceFile:
    """A path, with what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def content(self) -> dict[str, Any]:
        """Content of a file of `torch.save`; empty where that is no mapping, or the path is a folder."""
        if not self.path.is_file():
            return {}
        content = load_plain(self.path)
        return content if isinstance(content, dict) else {}


def tensors(content: dict[Any, Any]) -> Weights:
    """Of a mapping, what is a tensor."""
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty where there is none; ValueError names the file of a fault."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}; copy it again") from error
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for people to read."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
