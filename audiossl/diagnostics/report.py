"""Experiments on one page: a single HTML file with tables and plots that needs nothing beside it.

Whatever an experiment folder does not hold is left out and named, section by section; no missing or broken file stops a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json
from audiossl.diagnostics import figures
from audiossl.diagnostics.curves import (
    CONFIG,
    METRICS,
    read_curves,
    read_reference,
    read_tables,
    reference_path,
    watched,
)
from audiossl.diagnostics.page import Section, figure, page, table
from audiossl.diagnostics.results import FILE_NAME, Result, is_number, read_results, shown
from audiossl.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audiossl.config import Tables
    from audiossl.diagnostics.curves import Curves, Reference

_PROBE_TEXTS = ("source", "column", "selection")
_PROBE_NUMBERS = ("accuracy", "accuracy_std", "majority", "learning_rate", "parameters")
_FRACTION_KEYS = ("fraction", "accuracy", "accuracy_std", "learning_rate")
_SETTINGS = (
    "seed",
    "layer",
    "p_target",
    "c_miss",
    "c_fa",
    "top",
    "beam",
    "lm_weight",
    "word_score",
    "power",
    "t",
    "clusters",
)
"""Numbers in a result that say how it was measured."""


@dataclass(frozen=True)
class Options:
    """What a report shows beside the experiments. data, units: a data directory and the units in it; utterance: its id, "" the first."""

    title: str = "Experiments"
    compare: bool = False
    data: Path | None = None
    units: str = ""
    utterance: str = ""


def write_report(
    experiments: Sequence[Path], out: Path, options: Options, log: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Write the page, atomically; returns a line for each thing that is missing from it.

    log: is told what there is to know of references.
    """
    named = name_experiments(experiments)
    makers: dict[str, Callable[[Section], None]] = {
        "Results": lambda section: _results(section, named, compare=options.compare),
        "Training": lambda section: (_compared if options.compare else _training)(section, named),
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
    with whole_file(out) as partial:
        partial.write_text(page(options.title, list(named), sections), encoding="utf-8")
    for section in sections:
        for line in section.notes:
            log(f"{section.title}: {line}")
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


def _results(section: Section, experiments: dict[str, Path], *, compare: bool) -> None:
    rows, missing = gather_results(experiments)
    section.missing += missing
    if rows:
        section.body.append(_comparison(rows, experiments) if compare else _listing(rows))


def _listing(rows: list[tuple[str, Result]]) -> str:
    cells = [
        [
            name, result.name, f"{shown(result.value)} {result.unit}".strip(),
            "" if result.seed is None else str(result.seed), result.date[:10], result.machine, result.command,
        ]
        for name, result in rows
    ]  # fmt: skip
    return table(["experiment", "result", "value", "seed", "date", "machine", "command"], cells, code=6)


def _comparison(rows: list[tuple[str, Result]], experiments: dict[str, Path]) -> str:
    """One row per result, one column per experiment; of those that say the same of themselves the latest."""
    measured: dict[tuple[str, str], list[tuple[str, dict[str, str], str]]] = {}
    for name, result in sorted(rows, key=lambda row: row[1].date):
        found = (name, _details(result, experiments[name]), shown(result.value))
        measured.setdefault((result.name, result.unit), []).append(found)
    cells = []
    for (title, unit), several in sorted(measured.items()):
        apart = _apart([(name, details) for name, details, _ in several])
        latest: dict[str, dict[str, str]] = {}
        for name, details, value in several:
            said = ", ".join(f"{key} {details[key]}" for key in apart if key in details)
            latest.setdefault(f"{title} ({said})" if said else title, {})[name] = value
        cells += [
            [label, unit, *(values.get(name, "") for name in experiments)] for label, values in sorted(latest.items())
        ]
    return table(["result", "unit", *experiments], cells)


def _details(result: Result, folder: Path) -> dict[str, str]:
    """What a result says of how it was measured, with places below its experiment as there, so that they are alike in all.

    Texts, `_SETTINGS` and options with a dot, such as `probe.steps`: any other number was measured with it. Of the weights of one source the latest count.
    """
    told = {"seed": result.seed, **{key: value for key, value in result.more.items() if key != "source_digest"}}
    found = {}
    for key, value in told.items():
        parts = value if isinstance(value, list) else [value]
        setting = key in _SETTINGS or "." in key
        if value is not None and (setting or all(isinstance(part, str | bool) for part in parts)):
            found[key] = " + ".join(_inside(str(part), folder) for part in parts)
    return found


def _inside(text: str, folder: Path) -> str:
    try:
        below = str(Path(text).resolve().relative_to(folder.resolve()))
    except ValueError:
        return text
    return "of itself" if below == "." else below


def _apart(rows: list[tuple[str, dict[str, str]]]) -> list[str]:
    """Keys by which results of one experiment differ, sorted."""
    said: dict[tuple[str, str], set[str | None]] = {}
    keys = {key for _, details in rows for key in details}
    for name, details in rows:
        for key in keys:
            said.setdefault((key, name), set()).add(details.get(key))
    return sorted({key for (key, _), values in said.items() if len(values) > 1})


def _training(section: Section, experiments: dict[str, Path]) -> None:
    found = _curves(section, experiments, dict.fromkeys(experiments, ("loss",)))
    curves = {name: metrics["loss"] for name, metrics in found.items()}
    if curves:
        section.body.append(
            figure(figures.render(lambda figure: figures.draw_losses(figure, curves)), "Loss over steps")
        )
        last = [
            [name, kind, f"{curve.steps[-1]:.0f}", shown(float(curve.values[-1]))]
            for name, kinds in curves.items()
            for kind, curve in kinds.items()
        ]
        section.body.append(table(["experiment", "data", "last step", "loss"], last))


def _compared(section: Section, experiments: dict[str, Path]) -> None:
    """Every run over one another, metric by metric, and over the reference of its recipe."""
    tables = {name: read_tables(folder) for name, folder in experiments.items() if (folder / CONFIG).is_file()}
    runs = _curves(section, experiments, {name: watched(tables.get(name, {})) for name in experiments})
    if not runs:
        return
    references = _references(section, {name: tables.get(name, {}) for name in runs})
    grey = {f"reference {each.recipe} ({each.corpus}, seed {each.seed})": each.curves for each in references}
    panels = len({metric for metrics in runs.values() for metric in metrics})
    size = (9.0, 1.0 + 2.2 * -(-panels // 2))
    picture = figures.render(lambda figure: figures.draw_metrics(figure, runs, grey), size=size)
    section.body.append(
        figure(picture, "What training measured, over steps; references that ship with the recipes in grey")
    )
    last = [
        [name, kind, metric, f"{curve.steps[-1]:.0f}", shown(float(curve.values[-1]))]
        for name, metrics in {**runs, **grey}.items()
        for metric, kinds in metrics.items()
        for kind, curve in kinds.items()
    ]
    section.body.append(table(["experiment", "data", "metric", "last step", "value"], last))
    if references:
        rows = [[each.recipe, each.corpus, str(each.seed), each.date, each.command] for each in references]
        section.body.append(table(["reference", "corpus", "seed", "date", "command"], rows, code=4))


def _references(section: Section, tables: dict[str, Tables]) -> list[Reference]:
    """Find the reference of each experiment's recipe, and note how they differ."""
    found: dict[str, Reference] = {}
    for name, each in tables.items():
        recipe = each.get("run", {}).get("recipe")
        if recipe is None:
            section.missing.append(f"a reference for {name}: its {CONFIG} does not say which recipe it follows")
        elif not reference_path(recipe).is_file():
            section.missing.append(f"a reference for {name}: none ships with the recipe {recipe}")
        else:
            found[recipe] = found.get(recipe) or read_reference(reference_path(recipe))
            section.notes += [f"{name} and its reference: {line}" for line in found[recipe].differences(each)]
    return list(found.values())


def _curves(section: Section, experiments: dict[str, Path], wanted: dict[str, tuple[str, ...]]) -> dict[str, Curves]:
    """Read the wanted metrics of each experiment that has a loss."""
    curves: dict[str, Curves] = {}
    absent: list[str] = []
    for name, folder in experiments.items():
        path = folder / METRICS
        try:
            found = read_curves(path, wanted[name]) if path.is_file() else {}
        except ValueError as error:
            section.missing.append(str(error))
            continue
        if "loss" in found:
            curves[name] = found
        else:
            (section.missing if path.is_file() else absent).append(f"{name} has no losses in {METRICS}; train it first")
    section.missing += _if_all(absent, experiments)
    return curves


def _probes(section: Section, experiments: dict[str, Path]) -> None:
    weights: dict[str, np.ndarray] = {}
    curves: dict[str, np.ndarray] = {}
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
            parts = probe["fractions"]
            if parts:
                curves[label if label not in curves else f"{label} ({path.parent})"] = np.array(
                    [[part[key] for key in _FRACTION_KEYS[:3]] for part in parts]
                )
            for part in parts or [{**probe, "fraction": 1.0}]:
                budget = "" if part["fraction"] == 1 else f", {100 * part['fraction']:g} % of labels"
                cells.append([
                    name, f"{label}{budget}", f"{part['accuracy']:.2f} ± {part['accuracy_std']:.2f} %",
                    f"{probe['majority']:.2f} %", f"{part['learning_rate']:g}", str(probe["parameters"]), probe["selection"],
                ])  # fmt: skip
    section.missing += _if_all(absent, experiments)
    if weights:
        picture = figures.render(lambda figure: figures.draw_layer_weights(figure, weights))
        section.body.append(figure(picture, "Weight of each layer in the probes"))
    if curves:
        picture = figures.render(lambda figure: figures.draw_label_fractions(figure, curves))
        section.body.append(figure(picture, "Accuracy of the probes over the share of the training labels"))
    if cells:
        headings = ["experiment", "probe", "accuracy", "commonest class", "learning rate", "parameters", "chosen by"]
        section.body.append(table(headings, cells))


def _if_all(absent: list[str], experiments: dict[str, Path]) -> list[str]:
    """What is absent from some experiments is in the others, and no loss; what is absent from all must be said."""
    return absent if len(absent) == len(experiments) else []


def _probe(path: Path) -> dict[str, Any]:
    """Read what a probe wrote; ValueError names what it does not say, or not as it should."""
    found = read_json(path)
    probe: dict[str, Any] = {"fractions": [], **(found if isinstance(found, dict) else {})}
    _require(path, probe, _PROBE_TEXTS, lambda value: isinstance(value, str))
    _require(path, probe, _PROBE_NUMBERS, is_number)
    _require(path, probe, ("layer_weights",), lambda value: isinstance(value, list) and all(map(is_number, value)))
    _require(path, probe, ("fractions",), lambda value: isinstance(value, list))
    for part in probe["fractions"]:
        _require(path, part if isinstance(part, dict) else {}, _FRACTION_KEYS, is_number)
    return probe


def _require(path: Path, said: dict[str, Any], keys: Sequence[str], usable: Callable[[Any], bool]) -> None:
    for key in keys:
        if not usable(said.get(key)):
            raise ValueError(f"{path}: does not say {key!r}; run the probe again")


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
