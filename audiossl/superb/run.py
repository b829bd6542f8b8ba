"""From the name of a task to its score: the recipe, the task's class, the runner that it names."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl import registry
from audiossl.config import build, merge, to_table
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.results import FILE_NAME, read_results
from audiossl.interop.encoder import named_config
from audiossl.superb.labels import Labels
from audiossl.superb.recipes import place as place_of
from audiossl.superb.recipes import recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audiossl.config import Tables
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.score import Score

_TRANSFORMERS = "transformers:"
_PARTS = ("train", "all", "documents", "dev", "queries_dev", "test", "queries_eval")
"""Directories that a task may have. The first that is there is where a filterbank encoder without weights measures its mean and deviation."""
_ONLY_NAMES = frozenset(("column", "columns", "lexicon", "recogniser", "verifier", "metrics"))
"""Settings that say where data and models are or what is told beside the metric; others than a recipe's are no variant of its protocol."""
_ONLY_COST = frozenset(("num_workers", "cache_gb", "max_bad_fraction", "memory_gb"))
"""Settings that change what a score costs, and not what it is; so does `batch_seconds`, but where heads train on the frames of such a batch."""


@dataclass(frozen=True)
class Job:
    """A task ready to be run.

    name: of its recipe without `superb_`. task_name: of its file.
    """

    name: str
    task_name: str
    task_class: Any
    task_config: Any
    config: Any

    @property
    def runner(self) -> Any:
        """The module of this room that trains and scores it."""
        return _runner(self.task_class)

    @property
    def labels(self) -> Labels:
        """What it is asked about its data."""
        return Labels(self.task_class, self.task_config, self.config)

    @property
    def stream(self) -> tuple[Any, ...] | None:
        """What tasks must agree on to share a stream of frames; None where the task has none."""
        if self.task_class.runner != "frames":
            return None
        from audiossl.superb.frames import SHARED
        from audiossl.superb.hearing import Hearing

        return (Hearing.of(self.task_config), *(getattr(self.config, key) for key in SHARED))

    def variant(self, stride: int) -> str:
        """In what it differs from the published protocol, the settings that are not the recipe's included. stride: of the upstream, samples."""
        at = getattr(self.task_class, "variant_at", None)
        told = at(stride) if at is not None else getattr(self.task_class, "variant", "")
        plain = load_job(self.name).settings
        changed = [
            f"{key} {value}, not {plain.get(key)}"
            for key, value in self.settings.items()
            if value != plain.get(key) and key.rpartition(".")[2] not in _ONLY_NAMES
        ]
        return "; ".join(part for part in (told, *changed) if part)

    @property
    def settings(self) -> dict[str, Any]:
        """All that was chosen and that the score depends on, flat: `superb.steps` and so on."""
        tables = {"task": to_table(self.task_config), "superb": to_table(self.config)}
        left_out = _ONLY_COST if self.stream is not None else _ONLY_COST | {"batch_seconds"}
        return {"task": self.task_name} | {
            f"{section}.{key}": value
            for section, table in tables.items()
            for key, value in table.items()
            if key not in left_out
        }


def load_job(name: str, overrides: Tables | None = None) -> Job:
    """Read a task's recipe under `overrides`, tables `task` and `superb`; ValueError names what is wrong."""
    tables, place = merge(recipe(name), overrides or {}), place_of(name)
    for section in tables:
        if section not in {"task", "superb"}:
            raise ValueError(f"{place}: unknown table [{section}]; {registry.suggestion(section, ['task', 'superb'])}")
    task_class, task_config = named_config("tasks", tables["task"], f"{place}: task")
    config = build(_runner(task_class).Config, tables.get("superb", {}), f"{place}: superb")
    return Job(name, tables["task"]["name"], task_class, task_config, config)


def load_jobs(names: Sequence[str], overrides: Tables) -> list[Job]:
    """Read several recipes. A key of `overrides` goes to every task that has it, `superb.ks.steps` to one alone.

    ValueError for a key that none of them has.
    """
    own: dict[str, Tables] = {name: {} for name in names}
    used: set[tuple[str, str]] = set()
    for name in names:
        plain = load_job(name)
        known = {"task": _keys(plain.task_config) | {"name"}, "superb": _keys(plain.config)}
        for section, table in overrides.items():
            common = {key: value for key, value in table.items() if key not in names}
            chosen = {key: value for key, value in common.items() if key in known.get(section, ())}
            used |= {(section, key) for key in chosen}
            own[name][section] = merge(chosen, table.get(name, {}))
    for section, table in overrides.items():
        for key in table:
            if key not in names and (section, key) not in used:
                raise ValueError(
                    f"--{section}.{key}: no setting of {', '.join(names)}; `audiossl superb list` shows them"
                )
    return [load_job(name, tables) for name, tables in own.items()]


def groups(jobs: Sequence[Job], data: Path) -> list[list[Job]]:
    """Put together what can share a stream of frames: tasks whose folders `data/<task>` are one and who agree on the batches."""
    found: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        stream = job.stream
        found.setdefault(((data / job.name).resolve(), job.name if stream is None else stream), []).append(job)
    return list(found.values())


def run_jobs(
    jobs: Sequence[Job],
    *,
    upstream: str,
    source: FeatureSource,
    data: Path,
    out: Path,
    seed: int,
    device: str,
    log: Callable[[str], None],
) -> list[Score]:
    """Score an upstream on one task, or on several that learn from the same directories; each writes into `out/<task>` when it is done.

    Tasks that need frames share the forwards; ValueError where their batches differ, and for labels that one of them lacks, before anything is run.
    """
    from audiossl.superb import frames

    for job in jobs:
        job.labels.check(data)
    digests = {job.name: job.labels.digest(data) for job in jobs}
    given: dict[str, Any] = {
        "upstream": source, "upstream_name": upstream, "data": data, "seed": seed, "log": log, "device": device
    }  # fmt: skip
    scores: dict[str, Score] = {}
    together = [job for job in jobs if job.stream is not None]
    if together:
        entries = [frames.Entry(job.name, job.task_class, job.task_config, job.config) for job in together]
        for job, score in zip(together, frames.run_together(entries, out=out, **given), strict=True):
            scores[job.name] = _written(job, score, out, digests[job.name], source)
    for job in jobs:
        if job.stream is None:
            score = job.runner.run(job.name, job.task_class, job.task_config, job.config, out=out / job.name, **given)
            scores[job.name] = _written(job, score, out, digests[job.name], source)
    return [scores[job.name] for job in jobs]


def _written(job: Job, score: Score, out: Path, data: str, source: FeatureSource) -> Score:
    """Write a score with all that tells it from others; data: digest of what it was trained and tested on."""
    variant = "; ".join(filter(None, (job.variant(source.shape.stride), score.more.get("variant"))))
    said = {
        **score.more,
        **({"variant": variant} if variant else {}),
        "protocol": job.settings,
        "data": data,
        "upstream_digest": source.digest,
    }
    # What the official protocol reports is shown, where something else chose the step.
    shown = score.metric if score.metric in score.official else next(iter(score.official), score.metric)
    told = replace(score, metric=shown, more=said)
    told.write(out / job.name)
    return told


def is_finished(job: Job, out: Path, *, source: FeatureSource, data: Path, seed: int) -> bool:
    """Whether `out/<task>` has a score of this upstream by this protocol, with this seed, on this data and these labels."""
    place = out / job.name
    if not (place / FILE_NAME).is_file():
        return False
    wanted = {
        "task": job.name, "protocol": job.settings, "data": job.labels.digest(data), "upstream_digest": source.digest
    }  # fmt: skip
    return any(row.seed == seed and wanted.items() <= row.more.items() for row in read_results(place))


def open_upstream(name: str, data: Path, *, seed: int, device: str) -> FeatureSource:
    """Open what `--upstream` names: all that `diagnostics.sources` reads, and `transformers:DIR`."""
    from audiossl.diagnostics.sources import open_features

    place = name.removeprefix(_TRANSFORMERS)
    if name.startswith(_TRANSFORMERS) and not (Path(place) / "config.json").is_file():
        raise ValueError(f"{name}: {place} has no config.json; give a folder that transformers wrote")
    source = replace(open_features(place, seed=seed, device=device, train=Manifest.open(_first(data))), name=name)
    if source.reads is not None:
        raise ValueError(f"{name}: reads {source.reads.column}, and these tasks give recordings; use `audiossl probe`")
    return source


def has_data(data: Path) -> bool:
    """Whether an upstream can be opened for a folder of a task."""
    try:
        Manifest.open(_first(data))
    except ValueError:
        return False
    return True


def _first(data: Path) -> Path:
    return next((data / part for part in _PARTS if (data / part).is_dir()), data)


def folder_name(upstream: str) -> str:
    """Turn an upstream into the name of a folder."""
    return re.sub(r"[^A-Za-z0-9+._-]+", "-", upstream).strip("-.") or "upstream"


def _runner(task_class: Any) -> Any:
    return importlib.import_module(f"audiossl.superb.{task_class.runner}")


def _keys(config: Any) -> set[str]:
    return {item.name for item in fields(config)}
