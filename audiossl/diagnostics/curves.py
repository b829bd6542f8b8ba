"""What training measured, over steps: of an experiment, and of the finished ones that ship with the package as references.

A reference is `curves/RECIPE.jsonl` beside the recipes: a line that says where it comes from, then lines like those of `metrics.jsonl`, a hundred at most of
each kind.
"""

from __future__ import annotations

import json
import math
import shlex
from array import array
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl import registry
from audiossl.config import Tables, load_toml
from audiossl.files import whole_file
from audiossl.train.monitor import HEALTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIG, METRICS = "config.toml", "metrics.jsonl"
_POINTS = 400  # a drawn curve has at most this many; more cannot be told apart
_SHIPPED_POINTS = 100
_DIGITS = 4
_SHOWN = 6
_TELLING = ("unmasked_accuracy", "frontend_grad_norm")
"""Whether frames are copied rather than predicted, and whether the frontend still learns."""
_FREE = {
    "train": ("seed", "log_every", "save_every", "eval_every", "keep_checkpoints", "tensorboard", "collapse"),
    "data": ("num_workers", "prefetch", "max_bad_fraction"),
    "units": ("num_workers", "batch_seconds"),
}
"""Settings in which two runs of a recipe may differ without a word."""


@dataclass(frozen=True)
class Curve:
    """A metric over steps: (point,) each."""

    steps: np.ndarray
    values: np.ndarray

    def thinned(self, points: int = _POINTS) -> Curve:
        """Means of neighbouring points, so that no more than `points` are left."""
        if len(self.steps) <= points:
            return self
        starts = np.linspace(0, len(self.steps), points, endpoint=False).astype(np.int64)
        sizes = np.diff(np.append(starts, len(self.steps)))
        return Curve(np.add.reduceat(self.steps, starts) / sizes, np.add.reduceat(self.values, starts) / sizes)


Curves = dict[str, dict[str, Curve]]
"""Metric -> kind (`train`, `dev`) -> curve."""


@dataclass(frozen=True)
class Reference:
    """A finished run to compare with.

    corpus: what it was trained on, utterances and seconds of it; seed; date: of its last step; command: what was typed; settings: its tables.
    """

    recipe: str
    corpus: str
    utterances: int
    seconds: float
    seed: int
    date: str
    command: str
    settings: Tables
    curves: Curves

    def differences(self, tables: Tables) -> list[str]:
        """Say in which data and settings an experiment, by its tables, differs from this."""
        lines, run = [], tables["run"]
        utterances, seconds = run.get("data_utterances", 0), run.get("data_seconds", 0.0)
        if utterances != self.utterances or abs(seconds - self.seconds) > 1e-4 * self.seconds:
            lines.append(
                f"other data: {utterances} utterances of {seconds / 3600:.2f} h, here {self.utterances} of {self.seconds / 3600:.2f} h ({self.corpus})"
            )
        ours, theirs = (_flat(_settings(_complete(each))) for each in (tables, self.settings))
        differing = [key for key in sorted({*ours, *theirs}) if (ours.get(key) or None) != (theirs.get(key) or None)]
        if differing:
            shown = [
                f"{key} {_spoken(ours.get(key))} (reference: {_spoken(theirs.get(key))})" for key in differing[:_SHOWN]
            ]
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            lines.append(f"other settings: {', '.join(shown)}{more}")
        return lines


def _complete(settings: Tables) -> Tables:
    """Settings with the defaults of options that there were not yet when they were recorded; steps of augmentation that are off have no place in its order."""
    from audiossl.train import run_finetune, run_pretrain
    from audiossl.train.experiment import resolve

    sections = run_finetune.sections() if "task" in settings else run_pretrain.sections()
    tables: Tables = resolve({name: table for name, table in settings.items() if name != "run"}, sections, CONFIG)[0]
    augment = tables["data"].get("augment")
    if augment:
        taken = [step for step in augment["order"] if augment[f"{step}_probability"] > 0]
        tables["data"] = {**tables["data"], "augment": {**augment, "order": taken}}
    return tables


def read_curves(path: Path, metrics: Sequence[str] = ("loss",)) -> Curves:
    """Read some metrics of a metrics.jsonl, those that are there; ValueError names the line at fault.

    The last line may be cut short, as a killed run leaves it. Numbers that are not finite are left out.
    """
    found: dict[tuple[str, str], tuple[array[float], array[float]]] = {}
    for number, line in _whole_lines(path):
        try:
            row = json.loads(line)
            for name in metrics:
                if name in row and math.isfinite(row[name]):
                    steps, values = found.setdefault((name, str(row["kind"])), (array("d"), array("d")))
                    steps.append(row["step"])
                    values.append(row[name])
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: no step, kind and loss in it ({error}); remove the line") from error
    curves: Curves = {}
    for name in metrics:
        for (metric, kind), (steps, values) in found.items():
            if metric == name:
                curves.setdefault(name, {})[kind] = Curve(np.array(steps), np.array(values))
    return curves


def watched(tables: Tables) -> tuple[str, ...]:
    """Metrics worth a look, by an experiment's tables: the loss, what the terminal shows, what must not collapse, and `_TELLING`."""
    from audiossl.train.fine_tune import FineTune

    shown = FineTune.headline
    if "objective" in tables:
        shown = getattr(registry.get("objectives", tables["objective"]["name"]), "headline", ())
    return tuple(dict.fromkeys(("loss", *shown, *HEALTH, *_TELLING)))


def read_tables(experiment: Path) -> Tables:
    """Read what an experiment was trained with."""
    return load_toml(experiment / CONFIG)


def reference_path(recipe: str) -> Path:
    """Where the reference of a shipped recipe is, if it has one."""
    return registry.folder("recipes") / "curves" / f"{recipe}.jsonl"


def read_reference(path: Path) -> Reference:
    """Read what `write_reference` wrote; ValueError where something else is in it."""
    with path.open(encoding="utf-8") as lines:
        try:
            header = json.loads(lines.readline())
            curves = read_curves(path, header.pop("metrics"))
            return Reference(curves=curves, **header)
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}:1: does not say where the curve comes from ({error}); write it again") from error


def write_reference(experiment: Path, out: Path, corpus: str) -> Reference:
    """Write the curves of a finished experiment as a reference, atomically; ValueError where it is not finished or does not say what made it.

    corpus: what its data are called. Paths lose their folders: a reference says nothing of the machine.
    """
    tables = read_tables(experiment)
    run, last = tables["run"], tables["train"]["max_steps"]
    lacking = [key for key in ("recipe", "data_utterances", "data_seconds") if key not in run]
    if lacking:
        raise ValueError(f"{experiment / CONFIG}: has no run.{lacking[0]}, as made by an older version; train it again")
    metrics = watched(tables)
    curves = read_curves(experiment / METRICS, metrics)
    reached = max((int(curve.steps[-1]) for curve in curves.get("loss", {}).values()), default=0)
    if reached < last:
        raise ValueError(f"{experiment}: is at step {reached} of {last}; finish it with --resume first")
    header = {
        "recipe": run["recipe"],
        "corpus": corpus,
        "utterances": run["data_utterances"],
        "seconds": run["data_seconds"],
        "seed": tables["train"]["seed"],
        "date": datetime.fromtimestamp((experiment / METRICS).stat().st_mtime, UTC).date().isoformat(),
        "command": _without_folders(run["command"]),
        "settings": _bare(_settings(tables)),
        "metrics": list(curves),
    }
    rows = [header, *_thin_rows(experiment / METRICS, list(curves))]
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_reference(out)


def _thin_rows(path: Path, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Means of neighbouring rows of each kind, of four digits."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for _, line in _whole_lines(path):
        row = json.loads(line)
        kinds.setdefault(row["kind"], []).append({name: row[name] for name in ("step", *metrics) if name in row})
    for kind, rows in kinds.items():
        count = min(_SHIPPED_POINTS, len(rows))
        edges = np.linspace(0, len(rows), count + 1).astype(np.int64).tolist()
        for first, end in pairwise(edges):
            chunk = rows[first:end]
            means = {name: _mean([row[name] for row in chunk if name in row]) for name in metrics}
            step = round(sum(row["step"] for row in chunk) / len(chunk), 1)
            yield {"kind": kind, "step": step} | {name: value for name, value in means.items() if value is not None}


def _mean(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(f"{sum(finite) / len(finite):.{_DIGITS}g}") if finite else None


def _settings(tables: Tables) -> Tables:
    """Tables that say what is computed, without where and how conveniently."""
    return {
        name: {key: value for key, value in table.items() if key not in _FREE.get(name, ())}
        for name, table in tables.items()
        if name != "run"
    }


def _flat(table: Tables, prefix: str = "") -> Tables:
    flat: Tables = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _spoken(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _without_folders(command: str) -> str:
    program, *words = shlex.split(command)
    program = Path(program).name
    return shlex.join(["audiossl" if program == "__main__.py" else program, *map(_bare, words)])


def _bare(value: Any) -> Any:
    """Reduce absolute paths, wherever they are, to their last part."""
    if isinstance(value, dict):
        return {key: _bare(below) for key, below in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n") and line.strip():
                yield number, line
