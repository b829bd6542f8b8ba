"""What pretraining and fine-tuning share: the resolved recipe, the experiment folder, and the streams of batches."""

from __future__ import annotations

import math
import shlex
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import tee
from typing import TYPE_CHECKING, Any

from audiossl import __version__, registry
from audiossl import config as configuration
from audiossl.files import require_folder, take
from audiossl.interop.checkpoint import latest_checkpoint
from audiossl.interop.encoder import CONFIG, named_config
from audiossl.registry import suggestion
from audiossl.train.foreign import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from audiossl.contracts import Batch
    from audiossl.data.augment import AugmentConfig
    from audiossl.data.loader import BadRecordings, BatchMaker, LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import World

Tables = dict[str, Any]

CODEBOOK = "units"
"""Folder of an experiment with the codebook of the [units] table. A run that stopped before training leaves it alone, and is begun anew."""

_LOCK = ".lock"

MAY_CHANGE = (
    "run",  # `gather_tables` and `open_data` look at it
    "train.max_steps",  # the schedule follows
    "train.log_every",
    "train.save_every",
    "train.eval_every",
    "train.keep_checkpoints",
    "train.tensorboard",
    "train.accumulate",  # so that processes x accumulate stays what it was
    "train.collapse",
    "train.precision",  # this and the next two are what a run that diverges is told to change
    "train.clip_norm",
    "optim.peak_lr",
    "data.num_workers",
    "data.prefetch",
    "data.max_bad_fraction",
    "data.allow_commands",
    "units.encoder",  # may have moved: `units.recipe` compares its weights
    "units.batch_seconds",
    "units.num_workers",
)
"""Options, and tables of options, that may differ when a run is resumed; any other would make it another run."""

_VERBS = {
    "objective": "pretrain",
    "units": "pretrain",
    "adapter": "finetune",
    "finetune": "finetune",
    "superb": "superb",
}
"""Tables that tell which verb a recipe is for."""

_USEFUL = 0.95
"""Share of the seconds in batches that should be audio, not padding."""

_ROUNDING = 0.015
"""Seconds by which the length of the same data may differ: it is noted to hundredths, and sums differ in their last digits."""

_TRIES = 10
"""Batches without a usable recording, one after another, that end a run."""

_PREPARED = {"noise": ("noise_dirs", "musan"), "reverb": ("reverb_dir", "rirs_noises")}
"""Of the steps of augmentation that read recordings, which option names them, and which corpus those are that the recipes name."""


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
    options = _options(tables, sections)
    strange = [name for name in tables if name not in known]
    if strange:
        verb = next((_VERBS[name] for name in strange if name in _VERBS), None)
        given = tables[strange[0]] if isinstance(tables[strange[0]], dict) else ()
        meant = next(filter(None, (translated(key, options) for key in given)), "")
        near = suggestion(strange[0], known)
        if meant:
            near = f"{near}; {meant}" if near.startswith("did you mean") else meant
        cure = near if verb is None else f"the recipe is for `audiossl {verb}`"
        raise ValueError(f"{where}: unknown table [{strange[0]}]; {cure}")
    for name, keys in options.items():
        for key in tables.get(name, {}):
            if key not in keys and key != "name" and (meant := translated(key, options)):
                raise ValueError(f"{where}: {name}: unknown key {key!r}; {meant}")
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


def _options(tables: Tables, sections: Sections) -> dict[str, set[str]]:
    """Return the keys that each table of a recipe may have, besides a plug-in's `name`; nothing of tables that take any."""
    configs = {
        name: registry.get(kind, tables[name]["name"]).Config
        for name, kind in sections.plugins.items()
        if "name" in tables.get(name, {})
    }
    configs |= {name: cls for name, cls in sections.plain.items() if name in tables or name not in sections.optional}
    return {
        name: {item.name for item in fields(cls) if item.init}
        for name, cls in configs.items()
        if not any(configuration.FURTHER in item.metadata for item in fields(cls))
    }


def gather_tables(recipe: str, out: Path, overrides: Tables, run: Tables, *, resume: bool) -> Tables:
    """Return the recipe's tables under the command line's; a resumed experiment's own config.toml stands for the recipe.

    run: what the command line says the experiment is run on; of a recipe's [run] table only these keys are taken.
    """
    path = out / CONFIG
    given = {key: str(value) for key, value in run.items() if value is not None}
    if resume and path.is_file():
        began_with = load_tables(path)
        if "run" not in began_with:
            raise ValueError(f"{path}: has no table [run], as if it was cut short; restore it, or choose another --out")
        tables = configuration.merge(began_with, overrides)
        _refuse_other_recipe(recipe, tables["run"].get("recipe"), out)
        for key, value in given.items():
            began = tables["run"].get(key, "none")
            if value != began:
                raise ValueError(
                    f"--{key} {value}: {out} began with {began}; to go on with moved files, --run.{key} PATH"
                )
        return tables
    require_folder(out)
    if (
        out.exists()
        and any(item.name not in {CODEBOOK, _LOCK} for item in out.iterdir())
        and not (resume and not path.exists())
    ):
        raise ValueError(f"{out}: exists already; continue it with --resume, remove it, or choose another --out")
    tables = configuration.merge(load_tables(configuration.find_recipe(recipe)), overrides)
    named = {key: value for key, value in tables.get("run", {}).items() if key in run}
    about = {"recipe": _followed(recipe, tables), "version": __version__, "command": shlex.join(sys.argv)}
    tables["run"] = {**named, **given, **about}
    return tables


def load_tables(path: Path) -> Tables:
    """Read a recipe, or an experiment's config.toml; ValueError for what stands outside of its tables."""
    tables = configuration.load_toml(path)
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {name} = {value!r} is no table; write [{name}] with its keys")
    return tables


def _followed(recipe: str, tables: Tables) -> str:
    """Name of a recipe; the outcome of one is a recipe too, and remembers the first one's."""
    return str(tables.get("run", {}).get("recipe", configuration.find_recipe(recipe).stem))


def _refuse_other_recipe(recipe: str, began: str | None, out: Path) -> None:
    """ValueError where an experiment is to be resumed by another recipe than it `began` with, whose options would mean nothing."""
    if began is None or recipe == str(out / CONFIG):
        return  # an earlier version did not note it; the experiment's own is right
    named = _followed(recipe, load_tables(configuration.find_recipe(recipe)))
    if named != began:
        raise ValueError(
            f"{out}: follows the recipe {began}, not {named}; resume it with {began}, or choose another --out"
        )


def refuse_changes(out: Path, tables: Tables, sections: Sections) -> None:
    """ValueError where the complete `tables` of a run that goes on from a checkpoint differ from its config.toml in more than `MAY_CHANGE`."""
    path = out / CONFIG
    if not path.is_file() or latest_checkpoint(out) is None:  # without a checkpoint nothing was trained yet
        return
    began, now = _flat(resolve(load_tables(path), sections, str(path))[0]), _flat(tables)
    for key in now | began:
        fixed = not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)
        if fixed and began.get(key) != now.get(key):
            was, wanted = (repr(values[key]) if key in values else "not set" for values in (began, now))
            raise ValueError(
                f"{path}: {key} is {was}, {wanted} would make it another run; resume without --{key}, or choose another --out"
            )


def _flat(tables: Tables) -> Tables:
    """Return the values of nested tables by their dotted keys."""
    flat: Tables = {}
    for key, value in tables.items():
        flat |= (
            {f"{key}.{name}": inner for name, inner in _flat(value).items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return flat


@contextmanager
def only_run(out: Path, world: World) -> Iterator[None]:
    """Keep other runs out of the experiment folder; ValueError where one is in it. What a run that could not begin would leave of it is removed.

    The system lifts the lock when the process dies, however it does; file systems without locks go without.
    """
    if not world.main:
        yield
        return
    made = [place for place in (out, *out.parents) if not place.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a+") as lock:
        take(lock, out)
        try:
            yield
        finally:
            with suppress(OSError):
                (out / _LOCK).unlink()
                for place in made:
                    place.rmdir()  # fails where anything is in it


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Let the main process go before the others, which then find the indices that it built."""
    if not world.main:
        world.barrier()
    try:
        yield
    finally:  # after an error too, of which the others then say the same
        if world.main:
            world.barrier()


def open_data(tables: Tables) -> list[Manifest]:
    """Open the training data and, if given, the development data, and note their sizes in the [run] table.

    ValueError where a resumed experiment began with other sizes: its position in the data would mean other utterances.
    An earlier version noted no seconds.
    """
    from pathlib import Path

    from audiossl.data.manifest import Manifest

    run, manifests = tables["run"], []
    for key in ("data", "dev"):
        if key not in run:
            continue
        manifests.append(Manifest.open(Path(run[key]), allow_commands=tables["data"]["allow_commands"]))
        seconds = round(float(manifests[-1].durations.sum()), 2)
        for unit, now in (("utterances", len(manifests[-1])), ("seconds", seconds)):
            before = run.get(f"{key}_{unit}", now)
            if not math.isclose(before, now, rel_tol=0.0, abs_tol=_ROUNDING):
                raise ValueError(f"{run[key]}: has {now} {unit}, {before} when this experiment began; start a new one")
            run[f"{key}_{unit}"] = now
    return manifests


def write_config(out: Path, tables: Tables) -> None:
    """Write the resolved recipe into the experiment folder."""
    out.mkdir(parents=True, exist_ok=True)
    configuration.write_toml(out / CONFIG, tables)


def require_files(manifest: Manifest, needs: Iterable[str]) -> None:
    """Fail early, in one line, when the data directory lacks a file that training needs."""
    for name in needs:
        manifest.column(name)


def describe_batches(manifest: Manifest, config: LoaderConfig, *, seed: int, crops: bool = True) -> list[str]:
    """Say for the log what a run trains on, what is left out, and how much of the batches is audio; a warning where that is little.

    crops: whether it may learn from pieces of utterances.
    """
    from audiossl.data.loader import make_sampler

    sampler = make_sampler(manifest, config, seed=seed)
    useful = sampler.useful_fraction()
    lines = [f"{manifest.path}: {sampler.summary()}; {useful:.1%} of the batches is audio, the rest padding"]
    if useful < _USEFUL:
        lines.append(
            f"warning: {1 - useful:.1%} of the batches is padding, more than {1 - _USEFUL:.0%}; "
            f"lower data.batch_seconds, or set {'data.crop_duration or ' if crops else ''}data.max_duration"
        )
    return lines


def _check_augmentation(config: AugmentConfig) -> None:
    """ValueError, with the option at fault, where a directory to augment with cannot be opened."""
    from audiossl.data.augment import OWN
    from audiossl.data.manifest import Manifest

    for step, (option, corpus) in _PREPARED.items():
        given = getattr(config, option) or ()
        for path in given if isinstance(given, tuple) else (given,):
            if path == OWN or config.probability(step) == 0:
                continue
            try:
                Manifest.open(path)
            except ValueError as error:
                raise ValueError(
                    f"data.augment.{option}: {error} (`audiossl prep {corpus}` makes that of the recipes), "
                    f"or --data.augment.{step}_probability 0"
                ) from None


def stream_of(
    manifest: Manifest, module: Any, config: LoaderConfig, *, sample_rate: int, seed: int
) -> Callable[[Iterable[int]], Iterator[Batch]]:
    """Return a function from global micro-batch numbers to training batches; ValueError at once where no batch could be made.

    In the place of a batch of which no recording can be used comes the next one that has any.
    """
    from audiossl.data.loader import BadRecordings, BatchMaker, make_loader

    if config.augment:
        _check_augmentation(config.augment)
    maker = BatchMaker(
        manifest, module, config, sample_rate=sample_rate, seed=seed
    )  # before anything of the run is written

    def stream(positions: Iterable[int]) -> Iterator[Batch]:
        numbers, ahead = tee(positions)
        batches = make_loader(manifest, module, config, sample_rate=sample_rate, seed=seed, positions=ahead)
        for number, batch in zip(numbers, batches, strict=False):
            yield (
                batch
                if batch["utt_ids"]
                else _instead(maker, number, batch["bad"], BadRecordings(config.max_bad_fraction, len(manifest.ids)))
            )

    return stream


def _instead(maker: BatchMaker, number: int, bad: list[tuple[str, str]], limit: BadRecordings) -> Batch:
    """Make the next usable batch after `number`, none of whose recordings is: other processes wait for this one's gradients.

    bad: goes with it. ValueError where there is none among the next few, by `limit` if that many are too many.
    """
    for further in range(number + 1, number + _TRIES):
        batch = maker[further]
        bad = bad + batch["bad"]
        if batch["utt_ids"]:
            return batch | {"bad": bad}
    limit.add(bad)
    utterance, message = bad[0]
    raise ValueError(
        f"every recording of {_TRIES} batches is unusable, such as {utterance} ({message}); mend the data: `audiossl data validate`"
    )
