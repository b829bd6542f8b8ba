"""One file per format of other packages, found by its name.

Each has `sniff(source) -> bool` and `read(source, overrides) -> Model` (`onnx` cannot be read), and `write(model, out) -> list[str]`, which returns what
people should know. None imports the package whose format it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from audiossl.interop.source_file import SourceFile, read_json
from audiossl.registry import names, suggestion

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.model import Model

KIND = "interop/formats"


class Format(Protocol):
    """A module of this folder. overrides: keys of [encoder] that the file does not tell, or tells wrongly."""

    def sniff(self, source: SourceFile) -> bool:
        """Whether it is this format; cheap once the source's content was read."""
        ...

    def read(self, source: SourceFile, overrides: dict[str, Any]) -> Model:
        """Read all of it; ValueError names what is missing or unexpected."""
        ...

    def write(self, model: Model, out: Path) -> list[str]:
        """Write it whole or not at all; ValueError for what the format cannot hold."""
        ...


def get(name: str) -> Format:
    """Return a format by name; ValueError names what was probably meant."""
    known = names(KIND)
    if name not in known:
        raise ValueError(f"unknown format {name!r}; {suggestion(name, known)}")
    return cast("Format", importlib.import_module(f"audiossl.interop.formats.{name}"))


def read_model(path: Path, *, name: str | None = None, overrides: dict[str, Any] | None = None) -> tuple[str, Model]:
    """Read a model of another package. name: its format; None: found by looking. Returns the format and the model."""
    source = SourceFile(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; give a checkpoint of another package")
    _require_whole_folder(path)
    readable = [known for known in names(KIND) if hasattr(get(known), "read")]
    if name is not None and name not in readable:
        raise ValueError(f"format {name!r} cannot be read; {suggestion(name, readable)}")
    for known in readable if name is None else [name]:
        if name is not None or get(known).sniff(source):
            return known, get(known).read(source, overrides or {})
    _refuse_relatives(source)
    raise ValueError(f"{path}: is in none of the formats {', '.join(readable)}; name its --format if it is one of them")


def _refuse_relatives(source: SourceFile) -> None:
    """Raise ValueError for what is told apart, but of no family here: other models of transformers, and s3prl's distilled ones."""
    if isinstance(read_json(source.path / "config.json").get("model_type"), str):
        get("transformers").read(source, {})  # says which it knows
    if isinstance(source.content.get("Distiller"), dict):
        raise ValueError(
            f"{source.path}: is a model that s3prl distilled, which has heads of its own; give s3prl:distiller_local:{source.path}"
        )


def _require_whole_folder(path: Path) -> None:
    """Raise ValueError for a file of a folder of transformers, which means nothing without the others."""
    parts = path.is_file() and path.suffix in {".json", ".safetensors", ".bin"}
    if parts and get("transformers").sniff(SourceFile(path.parent)):
        raise ValueError(f"{path}: is one file of a model of transformers; give its folder, {path.parent}")
