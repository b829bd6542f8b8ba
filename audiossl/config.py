"""Configuration: dataclass defaults < TOML recipe < command line.

Each plug-in owns a frozen dataclass `Config`. A recipe is a TOML file with a table per part (`[encoder]`, `[objective]`,
`[train]` ...); `--section.key value` on the command line overrides it. Unknown keys and wrong types are errors that name the
file, the key and what was probably meant.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from audiossl.files import whole_file
from audiossl.registry import folder, suggestion

T = TypeVar("T")
Tables = dict[str, Any]


def load_toml(path: Path) -> Tables:
    """Read a TOML file; ValueError names the file and line of a fault."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a TOML recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}; mend the file") from error


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of one that ships with the package (`hubert_base`)."""
    path = Path(name)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise ValueError(f"{path}: no such recipe file; give a path or a name such as 'hubert_base'")
    known = recipe_names()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}; {suggestion(name, known)}")
    return folder("recipes") / f"{name}.toml"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in folder("recipes").glob("*.toml"))


def split_overrides(arguments: list[str]) -> tuple[Tables, list[str]]:
    """Split `--section.key value` and `--section.key=value` from the other arguments.

    Values are read as TOML, and as plain strings where they are not TOML. Returns (nested tables, other arguments).
    """
    tables: Tables = {}
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in key:
            rest.append(argument)
            continue
        if not equals:
            if not pending:
                raise ValueError(f"{argument}: has no value; write {argument} VALUE")
            value = pending.pop(0)
        table: Any = tables
        *sections, last = key.replace("-", "_").split(".")
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                break
        if not isinstance(table, dict) or isinstance(table.get(last), dict):
            raise ValueError(f"--{key}: one option gives it a value, another one keys; leave one of them out")
        table[last] = _toml_value(value)
    return tables, rest


_NAMES_ITSELF = frozenset(("units",))
"""Tables whose `name` is not that of a plug-in, whose options would go with it."""


def merge(base: Tables, over: Tables) -> Tables:
    """Return `base` with `over` on top, table by table; a table that names another plug-in replaces the whole table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            other = key not in _NAMES_ITSELF and "name" in value and value["name"] != below.get("name")
            merged[key] = value if other else merge(below, value)
        else:
            merged[key] = value
    return merged


FURTHER = "further"
"""In the metadata of a field: all keys that are none of the other fields', which stand beside these in a table, and which the dataclass checks."""


def seed_flaw(seed: int) -> str | None:
    """Say what is wrong with a seed, and the cure; None: nothing. Generators differ in what they take; all of them take these."""
    if seed < 0:
        return f"{seed} is negative; give 0 or more"
    return f"{seed} is above 4294967295; give less" if seed >= 2**32 else None


def build(cls: type[T], values: Tables, where: str) -> T:
    """Build the dataclass `cls` from a table, checked key by key; `where` names the table in errors."""
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls)
    every = {item.name: item for item in dataclasses.fields(cls) if item.init}
    fields = {name: item for name, item in every.items() if FURTHER not in item.metadata}
    further = {key: value for key, value in values.items() if key not in fields}
    values = {key: value for key, value in values.items() if key in fields}
    for key in further:
        if every.keys() == fields.keys():
            raise ValueError(f"{where}: unknown key {key!r}; {suggestion(key, list(fields))}")
    missing = [
        name
        for name, item in fields.items()
        if name not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: {missing[0]!r} is not given; add it to the recipe or the command line")
    checked = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    if isinstance(seed := checked.get("seed"), int) and (flaw := seed_flaw(seed)):
        raise ValueError(f"{where}.seed: {flaw}")
    rest = dict.fromkeys(every.keys() - fields.keys(), further)
    return typing.cast("T", cls(**checked, **rest))


def to_table(config: Any) -> Tables:
    """Turn a configuration dataclass into plain TOML values; None, which TOML lacks, is left out."""
    table: Tables = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if FURTHER in item.metadata:
            table |= {key: _plain(further) for key, further in value.items()}
        elif value is not None:
            table[item.name] = to_table(value) if dataclasses.is_dataclass(value) else _plain(value)
    return table


def write_toml(path: Path, tables: Tables) -> None:
    """Write tables as TOML, atomically."""
    import tomli_w

    with whole_file(path) as partial:
        partial.write_text(tomli_w.dumps(tables), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {value!r} is not a table; write [{where}] with its keys")
        return build(hint, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(value, options, where)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where}: {value!r} is not one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        return _convert_tuple(value, options, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise ValueError(f"{where}: {value!r} is not {_spoken(hint)}")


def _convert_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    candidates = [option for option in options if option is not type(None)]
    for option in candidates:
        try:
            return _convert(value, option, where)
        except ValueError:
            if option is candidates[-1]:
                raise
    raise AssertionError


def _convert_tuple(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: {value!r} is not a list; write [a, b, ...]")
    if len(options) == 2 and options[1] is Ellipsis:
        return tuple(_convert(item, options[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(options):
        raise ValueError(f"{where}: {value!r} has {len(value)} values; {len(options)} are wanted")
    return tuple(
        _convert(item, option, f"{where}[{i}]") for i, (item, option) in enumerate(zip(value, options, strict=True))
    )


def _spoken(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", Path: "a path"}
    return words.get(hint, str(hint))
