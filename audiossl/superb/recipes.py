"""The tasks that there are: recipes called `superb_<task>.toml`, and the tables of manifests called `benchmark_<name>.toml`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from audiossl.config import find_recipe, load_toml, merge, recipe_names
from audiossl.registry import suggestion

if TYPE_CHECKING:
    from audiossl.config import Tables

PREFIX = "superb_"
_BENCHMARK = "benchmark_"
_COMMON, _LIKE, _TITLE, _VARIANT = "common", "like", "title", "variant"
"""Tables and keys of a manifest that are no task and no setting: what its tasks share, the task whose recipe they begin with, what each is called, and in what
it (or, in what they share, all of them) differs from what was published."""


def task_names() -> list[str]:
    """Short names of the tasks that have a recipe: `ks`, `pr` ... `marble_gtzan_genre`."""
    return [name.removeprefix(PREFIX) for name in recipe_names() if name.startswith(PREFIX)] + list(_listed())


def recipe(name: str) -> Tables:
    """Read the recipe of a task: tables `task` and `superb`; ValueError for a task that has none."""
    if name in _listed():
        common, own = ({k: v for k, v in each.items() if k not in {_TITLE, _VARIANT}} for each in _listed()[name])
        return merge(common, own)
    if name not in task_names():
        raise ValueError(f"unknown task {name!r}; {suggestion(name, task_names())}")
    return load_toml(find_recipe(f"{PREFIX}{name}"))


def title(name: str) -> str:
    """Return the first sentence of a task's recipe, which says what it is."""
    if name in _listed():
        return str(_listed()[name][1][_TITLE])
    first = find_recipe(f"{PREFIX}{name}").read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").partition(". ")[0].strip()


def variant(name: str) -> str:
    """Return in what a task of a manifest differs from what was published; "" where that is nothing, or for its class to say."""
    return "; ".join(str(table[_VARIANT]) for table in _listed().get(name, ()) if _VARIANT in table)


def in_manifest(name: str) -> bool:
    """Whether a task is one of the many of a manifest."""
    return name in _listed()


def place(name: str) -> str:
    """Name where a task is described, for messages."""
    return name if name in _listed() else f"{PREFIX}{name}"


@cache
def _listed() -> dict[str, tuple[Tables, Tables]]:
    """Tasks of all manifests, `<benchmark>_<task>`: what they share, and their own tables."""
    found: dict[str, tuple[Tables, Tables]] = {}
    for manifest in recipe_names():
        if manifest.startswith(_BENCHMARK):
            tables = load_toml(find_recipe(manifest))
            common = tables.pop(_COMMON, {})
            if _LIKE in common:
                common = merge(load_toml(find_recipe(f"{PREFIX}{common.pop(_LIKE)}")), common)
            prefix = manifest.removeprefix(_BENCHMARK)
            found |= {f"{prefix}_{task}": (common, own) for task, own in tables.items()}
    return found
