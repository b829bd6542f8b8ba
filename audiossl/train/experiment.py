"""What pretraining and fine-tuning share: the resolved recipe, the experiment folder, and the streams of batches."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audiossl import __version__
from audiossl import config as configuration
from audiossl.interop.encoder import CONFIG, named_config
from audiossl.registry import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from audiossl.contracts import Batch
    from audiossl.data.loader import LoaderConfig
    from audiossl.data.manifest import Manifest

Tables = dict[str, Any]


@dataclass(frozen=True)
class Sections:
    """Which tables a recipe may hold: plug-ins by kind, and plain dataclasses."""

    plugins: dict[str, str]
    plain: dict[str, type]
    optional: tuple[str, ...] = ()


def resolve(tables: Tables, sections: Sections, where: str) -> tuple[Tables, dict[str, Any]]:
    """Check a recipe and fill in every default.

    Returns (complete tables for config.toml, the Config objects by section; for a plug-in, the pair (class, Config)).
    """
    known = [*sections.plugins, *sections.plain, "run"]
    for name in tables:
        if name not in known:
            raise ValueError(f"{where}: unknown table [{name}]; {suggestion(name, known)}")
    built: dict[str, Any] = {}
    complete: Tables = {}
    for name, kind in sections.plugins.items():
        if name not in tables:
            if name in sections.optional:
                continue
            raise ValueError(f"{where}: has no table [{name}]; add it with its 'name'")
        cls, config = named_config(kind, tables[name], f"{where}: {name}")
        built[name] = (cls, config)
        complete[name] = {"name": tables[name]["name"], **configuration.to_table(config)}
    for name, cls in sections.plain.items():
        if name not in tables and name in sections.optional:
            continue
        built[name] = configuration.build(cls, tables.get(name, {}), f"{where}: {name}")
        complete[name] = configuration.to_table(built[name])
    complete["run"] = dict(tables.get("run", {}))
    return complete, built


def gather_tables(recipe: str, out: Path, overrides: Tables, run: Tables, *, resume: bool) -> Tables:
    """Return the recipe's tables under the command line's; a resumed experiment's own config.toml stands for the recipe.

    run: what the command line says the experiment is run on; of a recipe's [run] table only these keys are taken.
    """
    path = out / CONFIG
    given = {key: str(value) for key, value in run.items() if value is not None}
    if resume and path.is_file():
        tables = configuration.merge(configuration.load_toml(path), overrides)
        for key, value in given.items():
            began = tables["run"].get(key, "none")
            if value != began:
                raise ValueError(
                    f"--{key} {value}: {out} began with {began}; to go on with moved files, --run.{key} PATH"
                )
        return tables
    if out.exists() and any(out.iterdir()) and not (resume and not path.exists()):
        raise ValueError(f"{out}: exists already; continue it with --resume, remove it, or choose another --out")
    tables = configuration.merge(configuration.load_toml(configuration.find_recipe(recipe)), overrides)
    named = {key: value for key, value in tables.get("run", {}).items() if key in run}
    tables["run"] = {**named, **given, "version": __version__, "command": shlex.join(sys.argv)}
    return tables


def open_data(tables: Tables) -> list[Manifest]:
    """Open the training data and, if given, the development data, and note their sizes in the [run] table.

    ValueError where a resumed experiment began with other sizes: its position in the data would mean other utterances.
    """
    from pathlib import Path

    from audiossl.data.manifest import Manifest

    run, manifests = tables["run"], []
    for key in ("data", "dev"):
        if key not in run:
            continue
        manifests.append(Manifest.open(Path(run[key])))
        size = f"{key}_utterances"
        before, now = run.get(size), len(manifests[-1])
        if before not in (None, now):
            raise ValueError(f"{run[key]}: has {now} utterances, {before} when this experiment began; start a new one")
        run[size] = now
    return manifests


def write_config(out: Path, tables: Tables) -> None:
    """Write the resolved recipe into the experiment folder."""
    out.mkdir(parents=True, exist_ok=True)
    configuration.write_toml(out / CONFIG, tables)


def require_files(manifest: Manifest, needs: Iterable[str]) -> None:
    """Fail early, in one line, when the data directory lacks a file that training needs."""
    for name in needs:
        manifest.column(name)


def stream_of(
    manifest: Manifest, module: Any, config: LoaderConfig, *, sample_rate: int, seed: int
) -> Callable[[Iterable[int]], Iterator[Batch]]:
    """Return a function from global micro-batch numbers to training batches."""
    from audiossl.data.loader import make_loader

    def stream(positions: Iterable[int]) -> Iterator[Batch]:
        return make_loader(manifest, module, config, sample_rate=sample_rate, seed=seed, positions=positions)

    return stream
