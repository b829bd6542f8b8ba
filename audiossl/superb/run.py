"""From the name of a task to its score: the recipe, the task's class, the runner that it names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from audiossl import registry
from audiossl.config import build, merge
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.results import FILE_NAME, read_results
from audiossl.interop.encoder import named_config
from audiossl.superb.job import TOLD_BESIDE, Job, runner_of
from audiossl.superb.recipes import place as place_of
from audiossl.superb.recipes import recipe
from audiossl.superb.recipes import variant as listed_variant
from audiossl.superb.score import LEFT_OUT, Score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from audiossl.config import Tables
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.job import Evaluation

_PARTS = ("train", "all", "documents", "dev", "queries_dev", "test", "queries_eval")
"""Directories that a task may have. The first that is there is where a filterbank encoder without weights measures its mean and deviation."""
_ACCUMULATED = "micro-batches of an update weigh as much as they hold, where the published code weighs all alike"
_NO_VARIANT = TOLD_BESIDE | {"column", "columns", "metrics", "groups"}
"""Settings that say where data and models are or what is told beside the metric, of which others than a recipe's are no variant; and `groups`, of which the runner tells."""


def load_job(name: str, overrides: Tables | None = None) -> Job:
    """Read a task's recipe under `overrides`, tables `task` and `superb`; ValueError names what is wrong."""
    tables, place = merge(recipe(name), overrides or {}), place_of(name)
    for section in tables:
        if section not in {"task", "superb"}:
            raise ValueError(f"{place}: unknown table [{section}]; {registry.suggestion(section, ['task', 'superb'])}")
    task_class, task_config = named_config("tasks", tables["task"], f"{place}: task")
    config = build(runner_of(task_class).Config, tables.get("superb", {}), f"{place}: superb")
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


def variant(job: Job, stride: int, data: Path | None = None) -> str:
    """In what a job differs from the published protocol, the settings that are not the recipe's included. stride: of the upstream, samples.

    data: what it learns from, of which another number of classes than the published data have is told.
    """
    at, of = (getattr(job.task_class, name, None) for name in ("variant_at", "variant_of"))
    told = at(stride) if at is not None else getattr(job.task_class, "variant", "")
    number, published = "", getattr(job.task_class, "published_classes", None)
    if data is not None and published is not None and hasattr(job.task_config, "columns"):
        classes = _classes(job, data)
        number = f"{len(classes)} classes, not {published}" if len(classes) != published else ""
        told = of({label for _, label in classes}) if of is not None else told
    plain = load_job(job.name).settings
    changed = [
        f"{key} {value}, not {plain.get(key)}"
        for key, value in job.settings.items()
        if value != plain.get(key) and key.rpartition(".")[2] not in _NO_VARIANT
    ]
    accumulated = _ACCUMULATED if getattr(job.config, "accumulate", 1) > 1 else ""
    return "; ".join(part for part in (told, number, accumulated, listed_variant(job.name), *changed) if part)


def _classes(job: Job, data: Path) -> set[tuple[str, str]]:
    """Columns of labels, each with the labels that it has in the directory that is learnt from."""
    manifest = Manifest.open(data / job.labels.parts[0])
    columns = {name: manifest.column(name) for name in job.task_config.columns}
    return {
        (name, column[index]) for name, column in columns.items() for index in range(len(manifest)) if column.has(index)
    }


def groups(jobs: Sequence[Job], data: Path) -> list[list[Job]]:
    """Put together what can share a stream of frames: tasks whose folders `data/<task>` are one and who agree on the batches."""
    found: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        stream = job.stream
        found.setdefault(((data / job.name).resolve(), job.name if stream is None else stream), []).append(job)
    return list(found.values())


def faults(jobs: Sequence[Job], data: Path) -> dict[str, Exception]:
    """What is wrong with the labels of tasks that could not be scored, by the name of the task; looked at before anything is run."""
    found: dict[str, Exception] = {}
    for job in jobs:
        try:
            job.labels.check(data)
        except (ValueError, OSError) as error:
            found[job.name] = error
    return found


def run_jobs(jobs: Sequence[Job], evaluation: Evaluation, out: Path) -> list[Score]:
    """Score an upstream on one task, or on several that learn from the same directories; each writes into `out/<task>` when it is done.

    Tasks that need frames share the forwards; ValueError where their batches differ. Their labels are those in which `faults` found none.
    """
    digests = {job.name: job.labels.digest(evaluation.data) for job in jobs}
    scores: dict[str, Score] = {}
    together = [job for job in jobs if job.stream is not None]
    if together:
        for job, score in zip(together, together[0].runner.run_together(together, evaluation, out), strict=True):
            scores[job.name] = _written(job, score, out, digests[job.name], evaluation)
    for job in jobs:
        if job.stream is None:
            score = job.runner.run(job, evaluation, out / job.name)
            scores[job.name] = _written(job, score, out, digests[job.name], evaluation)
    return [scores[job.name] for job in jobs]


def _written(job: Job, score: Score, out: Path, data: str, evaluation: Evaluation) -> Score:
    """Write a score with all that tells it from others; data: digest of what it was trained and tested on."""
    source = evaluation.upstream
    unusable = score.more.get(LEFT_OUT)
    left_out = f"{unusable} recordings of test cannot be used and are not scored" if unusable else ""
    differs = "; ".join(
        filter(None, (variant(job, source.shape.stride, evaluation.data), score.more.get("variant"), left_out))
    )
    said = {
        **score.more,
        **({"variant": differs} if differs else {}),
        "protocol": job.settings,
        "data": data,
        "upstream_digest": source.digest,
    }
    # What the official protocol reports is shown, where something else chose the step.
    shown = score.metric if score.metric in score.official else next(iter(score.official), score.metric)
    told = replace(score, metric=shown, more=said)
    told.write(out / job.name)
    return replace(told, answers={})


def finished(job: Job, evaluation: Evaluation, out: Path) -> Score | None:
    """Return the score of `out/<task>` of this upstream by this protocol, with this seed, on this data and these labels; None where there is none."""
    place = out / job.name
    if not (place / FILE_NAME).is_file():
        return None
    wanted = {"task": job.name, "protocol": job.settings, "data": job.labels.digest(evaluation.data)}
    rows = [row for row in read_results(place) if row.seed == evaluation.seed and wanted.items() <= row.more.items()]
    found = [row for row in rows if row.more.get("upstream_digest") == evaluation.upstream.digest]
    if rows and not found:
        evaluation.log(
            f"{place}: is of an upstream with other weights, settings or code than {evaluation.upstream_name} has now; scored anew"
        )
    return Score.of_rows(found) if found else None


def open_upstream(name: str, data: Path, *, seed: int, device: str) -> FeatureSource:
    """Open what `--upstream` names: all that `diagnostics.sources` reads, but for encoders of units."""
    from audiossl.diagnostics.sources import open_features

    source = open_features(name, seed=seed, device=device, train=Manifest.open(_first(data)))
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
    """Turn an upstream into the name of a folder; those that would often share one, as files of one's own in folders, have a digest at the end."""
    plain = re.sub(r"[^A-Za-z0-9+._-]+", "-", upstream).strip("-.")
    own_code = ".py:" in upstream and "/" in upstream
    if plain and not own_code and not re.search(r"[^A-Za-z0-9+._/:@-]", upstream):
        return plain
    return f"{plain or 'upstream'}-{hashlib.sha256(upstream.encode()).hexdigest()[:6]}"


def _keys(config: Any) -> set[str]:
    return {item.name for item in fields(config)}
