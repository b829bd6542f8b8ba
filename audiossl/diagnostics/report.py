"""Experiments on one page: a single HTML file with tables and plots that needs nothing beside it.

Whatever an experiment folder does not hold is left out and named, section by section; no missing or broken file stops a report.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json
from audiossl.diagnostics import figures
from audiossl.diagnostics.page import Section, figure, page, table
from audiossl.diagnostics.results import FILE_NAME, Result, read_results, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from audiossl.diagnostics.figures import Curve

_PROBE_KEYS = ("source", "column", "accuracy", "accuracy_std", "majority", "learning_rate", "parameters", "selection")


@dataclass(frozen=True)
class Options:
    """What a report shows beside the experiments. data, units: a data directory and the units in it; utterance: its id, "" the first."""

    title: str = "Experiments"
    compare: bool = False
    data: Path | None = None
    units: str = ""
    utterance: str = ""


def write_report(experiments: Sequence[Path], out: Path, options: Options) -> list[str]:
    """Write the page, atomically; returns a line for each thing that is missing from it."""
    named = name_experiments(experiments)
    makers: dict[str, Callable[[Section], None]] = {
        "Results": lambda section: _results(section, named, compare=options.compare),
        "Training": lambda section: _training(section, named),
        "Probes": lambda section: _probes(section, named),
        "Units": lambda section: _units(section, options),
        "Utterance": lambda section: _utterance(section, options),
    }
    sections = []
    for title, make in makers.items():
        section = Section(title)
        try:
            make(section)
        except (ValueError, OSError) as error:
            section.missing.append(" ".join(str(error).split()))
        sections.append(section)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(page(options.title, list(named), sections), encoding="utf-8")
    partial.replace(out)
    return [f"{section.title}: {line}" for section in sections for line in section.missing]


def name_experiments(experiments: Sequence[Path]) -> dict[str, Path]:
    """Name each folder as shortly as keeps them apart; ValueError for one that does not exist."""
    for path in experiments:
        if not path.is_dir():
            raise ValueError(f"{path}: no such experiment folder; give folders that training or scoring wrote")
    last = [path.resolve().name for path in experiments]
    return {name if last.count(name) == 1 else str(path): path for name, path in zip(last, experiments, strict=True)}


def gather_results(experiments: dict[str, Path]) -> tuple[list[tuple[str, Result]], list[str]]:
    """Return every result below the experiments, and a line for each file that cannot be read, or for all if none has any."""
    rows: list[tuple[str, Result]] = []
    missing = []
    absent: list[str] = []
    for name, folder in experiments.items():
        files = sorted(folder.rglob(FILE_NAME))
        if not files:
            absent.append(f"{name} has no {FILE_NAME}; score it first")
        for path in files:
            try:
                rows += [(name, result) for result in read_results(path)]
            except ValueError as error:
                missing.append(str(error))
    return rows, missing + _if_all(absent, experiments)


def read_curves(path: Path) -> dict[str, Curve]:
    """Read the losses of metrics.jsonl by kind (`train`, `dev`); ValueError names the line at fault.

    The last line may be cut short, as a killed run leaves it.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for number, line in _whole_lines(path):
        try:
            row = json.loads(line)
            if "loss" in row and np.isfinite(row["loss"]):
                points.setdefault(str(row["kind"]), []).append((row["step"], row["loss"]))
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: no step, kind and loss in it ({error}); remove the line") from error
    arrays = {kind: np.array(values, dtype=np.float64) for kind, values in points.items()}
    return {kind: figures.Curve(values[:, 0], values[:, 1]) for kind, values in arrays.items()}


def _results(section: Section, experiments: dict[str, Path], *, compare: bool) -> None:
    rows, missing = gather_results(experiments)
    section.missing += missing
    if rows:
        section.body.append(_comparison(rows, list(experiments)) if compare else _listing(rows))


def _listing(rows: list[tuple[str, Result]]) -> str:
    cells = [
        [
            name, result.name, f"{shown(result.value)} {result.unit}".strip(),
            "" if result.seed is None else str(result.seed), result.date[:10], result.machine, result.command,
        ]
        for name, result in rows
    ]  # fmt: skip
    return table(["experiment", "result", "value", "seed", "date", "machine", "command"], cells, code=6)


def _comparison(rows: list[tuple[str, Result]], experiments: list[str]) -> str:
    """One row per result, one column per experiment; of repeated ones the latest."""
    latest: dict[tuple[str, str], dict[str, str]] = {}
    for name, result in sorted(rows, key=lambda row: row[1].date):
        latest.setdefault((result.name, result.unit), {})[name] = shown(result.value)
    cells = [[*key, *(values.get(name, "") for name in experiments)] for key, values in sorted(latest.items())]
    return table(["result", "unit", *experiments], cells)


def _training(section: Section, experiments: dict[str, Path]) -> None:
    curves: dict[str, dict[str, Curve]] = {}
    absent: list[str] = []
    for name, folder in experiments.items():
        path = folder / "metrics.jsonl"
        try:
            found = read_curves(path) if path.is_file() else {}
        except ValueError as error:
            section.missing.append(str(error))
            continue
        if found:
            curves[name] = found
        else:
            (section.missing if path.is_file() else absent).append(
                f"{name} has no losses in metrics.jsonl; train it first"
            )
    section.missing += _if_all(absent, experiments)
    if curves:
        section.body.append(
            figure(figures.render(lambda figure: figures.draw_losses(figure, curves)), "Loss over steps")
        )
        last = [
            [name, kind, f"{curve.steps[-1]:.0f}", shown(float(curve.losses[-1]))]
            for name, kinds in curves.items()
            for kind, curve in kinds.items()
        ]
        section.body.append(table(["experiment", "data", "last step", "loss"], last))


def _probes(section: Section, experiments: dict[str, Path]) -> None:
    weights: dict[str, np.ndarray] = {}
    cells = []
    absent: list[str] = []
    for name, folder in experiments.items():
        files = sorted(folder.rglob("probe.json"))
        if not files:
            absent.append(f"{name} has no probe.json; run `audiossl probe` with --out inside of it")
        for path in files:
            try:
                probe = _probe(path)
            except ValueError as error:
                section.missing.append(str(error))
                continue
            label = f"{probe['source']}, {probe['column'].removeprefix('utt2')}"
            if len(probe["layer_weights"]) > 1:
                weights[label if label not in weights else f"{label} ({path.parent})"] = np.array(
                    probe["layer_weights"]
                )
            score = f"{probe['accuracy']:.2f} ± {probe['accuracy_std']:.2f} %"
            cells.append([
                name, label, score, f"{probe['majority']:.2f} %", f"{probe['learning_rate']:g}",
                str(probe["parameters"]), probe["selection"],
            ])  # fmt: skip
    section.missing += _if_all(absent, experiments)
    if weights:
        picture = figures.render(lambda figure: figures.draw_layer_weights(figure, weights))
        section.body.append(figure(picture, "Weight of each layer in the probes"))
    if cells:
        headings = ["experiment", "probe", "accuracy", "commonest class", "learning rate", "parameters", "chosen by"]
        section.body.append(table(headings, cells))


def _if_all(absent: list[str], experiments: dict[str, Path]) -> list[str]:
    """What is absent from some experiments is in the others, and no loss; what is absent from all must be said."""
    return absent if len(absent) == len(experiments) else []


def _probe(path: Path) -> dict[str, Any]:
    found = read_json(path)
    absent = [key for key in (*_PROBE_KEYS, "layer_weights") if not isinstance(found, dict) or key not in found]
    if absent:
        raise ValueError(f"{path}: does not say {absent[0]!r}; run the probe again")
    probe: dict[str, Any] = found
    return probe


def _units(section: Section, options: Options) -> None:
    from audiossl.diagnostics.shown_data import unit_counts

    if options.data is None or not options.units:
        section.missing.append("no units are named; give --data DIR --units NAME")
        return
    counts = unit_counts(options.data, options.units)
    picture = figures.render(lambda figure: figures.draw_units(figure, counts))
    section.body.append(figure(picture, f"Use of {options.units} in {options.data}"))


def _utterance(section: Section, options: Options) -> None:
    from audiossl.diagnostics.shown_data import utterance_to_show

    if options.data is None or not options.units:
        section.missing.append(
            "no utterance can be shown; give --data DIR --units NAME, and --utterance ID to choose it"
        )
        return
    shown_one, missing = utterance_to_show(options.data, options.units, options.utterance)
    section.missing += missing
    picture = figures.render(lambda figure: figures.draw_utterance(figure, shown_one), size=(11.0, 4.4))
    section.body.append(
        figure(picture, f"Log-mel energies, {options.units} and phones; white lines are phone boundaries")
    )


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n") and line.strip():
                yield number, line
