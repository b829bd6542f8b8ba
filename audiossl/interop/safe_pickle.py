"""Read what `torch.save` wrote elsewhere, without running any of it and without the packages that it names.

Checkpoints of fairseq hold argument namespaces, omegaconf nodes, enumerations and dictionaries of classes that are not installed here. Tensors and
containers become themselves, numpy scalars become numbers, and objects of those packages become plain dicts, lists or values. A pickle that names
anything else is refused before that name is looked up.
"""

from __future__ import annotations

import builtins
import collections
import pickle
import zipfile
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BUILTINS = {"dict", "list", "tuple", "set", "frozenset", "int", "float", "bool", "str", "complex", "object"}
_PYTHON2 = {"unicode": "str", "long": "int"}
"""As protocol 2, which torch.save writes, still calls them."""

_INERT = ("argparse", "omegaconf", "fairseq", "fairseq_cli", "examples", "enum", "pathlib", "typing", "datetime")
"""Packages whose objects are data: their classes are never imported, and their instances become `_Record`."""

_ARRAYS, _SIZED = {"_reconstruct"}, {"bytearray", "slice", "type"}
_INERT_NAMES = {
    "numpy": {"ndarray"},
    "numpy.core.multiarray": _ARRAYS,
    "numpy._core.multiarray": _ARRAYS,
    "builtins": _SIZED,
    "__builtin__": _SIZED,
    "collections": {"Counter"},
    "_operator": {"getitem"},
    "operator": {"getitem"},
    "torch": {"Tensor"},
    "torch.nn.parameter": {"Parameter"},
}
"""By module, what checkpoints hold beside that, and what need not work either: types of entries, `List[str]` or that of None, are such calls."""


class UnsafePickleError(ValueError):
    """A file asks for something that no checkpoint needs."""


class _Record:
    """Stand-in for an object of a package that is not imported: it remembers what it was made of, and does nothing."""

    package = name = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_plain(path: Path, *, mapped: bool = False) -> Any:
    """Return the content of a file of `torch.save`, on the CPU.

    mapped: tensors stay in the file until they are looked at; only for the zip archives that torch.save writes now.
    UnsafePickleError where it names a function or class beyond those of tensors, containers and configurations; ValueError where it is no such file.
    """
    import torch

    reader = ModuleType("safe_pickle")  # what torch takes in place of the module `pickle`
    vars(reader).update(Unpickler=_Unpickler, load=_load)
    try:
        _refuse_programs(path)
        return _plain(
            torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False, mmap=mapped), (), {}
        )
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes are instructions to zipfile, pickle and torch, which may raise anything
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"{path}: cannot be read as a checkpoint ({first_line(error)}); copy it again") from error


def _refuse_programs(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise UnsafePickleError("is a TorchScript program, not weights; save its state_dict instead")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _allowed(module, name)
        if allowed is not None:
            return allowed
        if module.partition(".")[0] in _INERT or name in _INERT_NAMES.get(module, ()):
            return type("_Record", (_Record,), {"package": module.partition(".")[0], "name": name})
        raise UnsafePickleError(f"names {module}.{name}, which is no part of a checkpoint; do not use this file")


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _allowed(module: str, name: str) -> Any:
    """Return what a pickle may use as it is, or None. Functions come in a wrapper of their own: a pickle can set attributes of what it is given."""
    import numpy as np
    import torch

    if module in {"builtins", "__builtin__"} and _PYTHON2.get(name, name) in _BUILTINS:
        return getattr(builtins, _PYTHON2.get(name, name))
    if module == "collections" and name in {"OrderedDict", "defaultdict"}:
        return getattr(collections, name)
    if module == "torch" and (name in {"Size", "device"} or isinstance(getattr(torch, name, None), torch.dtype)):
        return getattr(torch, name)
    if module == "torch._utils" and name in {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}:
        return _wrapped(getattr(torch._utils, name))  # noqa: SLF001 - the names that torch.save writes
    if module == "torch._utils" and name == "_rebuild_parameter_with_state":
        return _wrapped(_stateless)
    if module == "torch._tensor" and name == "_rebuild_from_type_v2":
        return _wrapped(_untyped)
    if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "scalar":
        return _wrapped(_numpy_scalar)
    if module == "numpy" and name == "dtype":
        return np.dtype
    if module in {"builtins", "__builtin__"} and name == "getattr":
        return _wrapped(_member)
    if module == "_codecs" and name == "encode":  # bytes, as protocol 2 writes them
        return _wrapped(_latin1)
    return None


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments)  # noqa: PLW0108 - a new object each time


def _member(owner: Any, name: str) -> Any:
    """Member of an enumeration of a package that is not imported, as Python 3.11.0 to 3.11.3 write it; no attribute is looked up."""
    if not (isinstance(owner, type) and issubclass(owner, _Record)):
        raise UnsafePickleError("names builtins.getattr, which is no part of a checkpoint; do not use this file")
    return owner(name)


def _stateless(data: Any, requires_grad: Any, hooks: Any, _state: Any) -> Any:
    """Parameter without the attributes that it had."""
    import torch

    return torch._utils._rebuild_parameter(data, requires_grad, hooks)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above


def _untyped(rebuild: Callable[..., Any], _type: Any, arguments: tuple[Any, ...], _state: Any) -> Any:
    """Tensor without the class and the attributes that it had. rebuild: came through `find_class`, like all that a pickle can call."""
    return rebuild(*arguments)


def _numpy_scalar(dtype: Any, raw: bytes | str) -> Any:
    import numpy as np

    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise UnsafePickleError("holds a numpy scalar of objects; do not use this file")
    content = raw if isinstance(raw, bytes) else raw.encode("latin1")
    return np.frombuffer(content, dtype=dtype, count=1)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UnsafePickleError(f"holds bytes in encoding {encoding!r}; do not use this file")
    return text.encode("latin1")


def _plain(value: Any, above: tuple[int, ...], done: dict[int, Any]) -> Any:
    """Containers of containers without records; an object inside itself becomes None, one in several places is looked at once.

    above: identities of what it is in. done: by identity, what was made of each container; without it few bytes could ask for years of work.
    """
    if id(value) in above:
        return None
    if id(value) in done:
        return done[id(value)]
    path, plain = (*above, id(value)), value
    if isinstance(value, dict):
        plain = {_plain_key(key, path, done): _plain(item, path, done) for key, item in value.items()}
    elif type(value) in {list, tuple, set, frozenset}:
        items = [_plain(item, path, done) for item in value]
        plain = tuple(items) if isinstance(value, tuple) else items
    elif isinstance(value, _Record):
        plain = _plain_record(value, path, done)
    elif isinstance(value, type):
        return value.__name__
    else:
        return value
    done[id(value)] = plain
    return plain


def _plain_key(key: Any, path: tuple[int, ...], done: dict[int, Any]) -> Any:
    """A key that can be hashed, whatever object it was."""
    plain = _plain(key, path, done)
    return plain if isinstance(plain, str | int | float | bool | tuple | None) else str(plain)


def _plain_record(record: _Record, path: tuple[int, ...], done: dict[int, Any]) -> Any:
    state = record.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict | None):
        state = {**(state[0] or {}), **(state[1] or {})}  # attributes and slots
    if not isinstance(state, dict):
        words = record.arguments
        if record.package == "pathlib":
            return "/".join(str(word) for word in words)
        return _plain(words[0], path, done) if len(words) == 1 else [_plain(word, path, done) for word in words]
    if record.package == "omegaconf":
        for key in ("_content", "_val"):  # of a container and of a value; the rest points to parents and types
            if key in state:
                return _plain(state[key], path, done)
    return {_plain_key(key, path, done): _plain(item, path, done) for key, item in state.items()}


def first_line(error: BaseException) -> str:
    """What an error says, or else what it is called."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
