"""Find a plug-in by the name of its file.

`names("encoders")` lists files and imports nothing; `get("encoders", "wav2vec2")` imports that one file and returns its
class; `get("encoders", "my_package.my_module:MyEncoder")` reaches code outside the package. There is no table to edit: a
new file is a new name. The object returned is the public one whose name, without case and underscores, is the file's
(`wav2vec2.py` -> `Wav2Vec2`, `equal_error_rate.py` -> `equal_error_rate`). For corpora, it is the module itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGE = Path(__file__).parent


def names(kind: str) -> list[str]:
    """Names of all plug-ins of `kind`, a folder of the package (`encoders`, `losses`, ...) or `data_prep`."""
    return sorted(path.stem for path in folder(kind).glob("*.py") if not path.stem.startswith("_"))


def get(kind: str, name: str) -> Any:
    """Return the plug-in `name` of `kind`; ValueError names what was probably meant."""
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:  # only `python -m` puts it there; last, so that it hides nothing
            sys.path.append(here)
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{kind}: cannot load {name!r}: {error}; write it as package.module:Name, of something installed or in {here}"
            ) from error
    known = names(kind)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; {suggestion(name, known)}")
    module = _module(kind, name)
    if kind == "data_prep":
        return module
    wanted = _fold(name)
    for attribute, value in vars(module).items():
        if _fold(attribute) == wanted and getattr(value, "__module__", None) == module.__name__:
            return value
    raise AssertionError(f"{module.__name__} defines nothing called {name!r}")


def suggestion(name: str, known: list[str]) -> str:
    """Finish an error message about an unknown name: the nearest known one, or all of them."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def folder(kind: str) -> Path:
    """Return the folder that holds the plug-ins or files of `kind`: inside the package or, in a checkout, beside it."""
    for candidate in (_PACKAGE / kind, _PACKAGE.parent / kind):
        if candidate.is_dir():
            return candidate
    raise AssertionError(f"no folder {kind!r} in this installation")


def _module(kind: str, name: str) -> ModuleType:
    path = folder(kind) / f"{name}.py"
    try:
        if path.is_relative_to(_PACKAGE):
            return importlib.import_module(f"{_PACKAGE.name}.{kind}.{name}")
        return _from_path(f"{kind}.{name}", path)
    except (ImportError, OSError) as error:  # a broken torchaudio raises OSError
        raise ValueError(
            f"{kind}/{name}.py cannot be imported: {error}; `audiossl doctor` says what is missing"
        ) from error


def _from_path(module_name: str, path: Path) -> ModuleType:
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _fold(name: str) -> str:
    return name.replace("_", "").lower()
