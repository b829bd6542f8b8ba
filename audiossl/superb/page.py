"""A table of scores as Markdown, as CSV in two shapes, and as one HTML page with the weights of the layers."""

from __future__ import annotations

import csv
import io
from functools import partial
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.diagnostics import page as html
from audiossl.diagnostics.results import shown
from audiossl.files import whole_file
from audiossl.superb.table import lower_is_better

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from audiossl.diagnostics.results import Result
    from audiossl.superb.table import Cell, Table

_TITLE = "SUPERB"
_TOTAL = "SUPERB score ↑"
_COST = ("upstream", "task", "forwards", "alone", "seconds", "memory, GB", "energy, kJ")
_CHOICE = (
    "upstream",
    "task",
    "value",
    "learning rate",
    "step",
    "seeds",
    "chosen by",
    "chosen on test",
    "its rate",
    "its step",
    "parameters",
)
_EVERY = (
    "upstream", "task", "seed", "metric", "unit", "value", "learning_rate", "layer", "step", "selection", "official_value", "official_learning_rate",
    "official_step", "official_selection", "parameters", "protocol", "variant",
)  # fmt: skip


def write_table(table: Table, out: Path) -> list[Path]:
    """Write `table.md`, `table.csv`, `scores.csv` and `table.html` into a folder, each atomically."""
    out.mkdir(parents=True, exist_ok=True)
    contents = {
        "table.md": markdown(table),
        "table.csv": comma_separated(table),
        "scores.csv": every_score(table),
        "table.html": page(table),
    }
    paths = []
    for name, content in contents.items():
        path = out / name
        with whole_file(path) as place:
            place.write_text(content, encoding="utf-8")
        paths.append(path)
    return paths


def markdown(table: Table) -> str:
    """Scores, notes, how they were chosen and what they cost; the best of each column is bold."""
    rows = [[f"**{text}**" if bold else text for text, bold in row] for row in _rows(table)]
    parts = [f"# {_TITLE}", _pipes(_headings(table), rows)]
    parts += ["\n".join(f"* {note}" for note in table.notes)] if table.notes else []
    parts += ["## How they were chosen", _pipes(_CHOICE, _choices(table))]
    parts += ["## What they cost", _pipes(_COST, _costs(table)), _COST_NOTE]
    return "\n\n".join(parts) + "\n"


def comma_separated(table: Table) -> str:
    """A row per upstream: the values as they are, mean over seeds, empty where there is none; marks and notes are in the other formats."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    totals = ["SUPERB score"] if table.totals else []
    writer.writerow(["upstream", *(f"{task} {_metric(table, task)}" for task in table.tasks), *totals])
    for upstream in table.upstreams:
        cells = [table.cells.get((upstream, task)) for task in table.tasks]
        values = ["" if cell is None else repr(cell.value) for cell in cells]
        total = [repr(table.totals[upstream]) if upstream in table.totals else ""] if table.totals else []
        writer.writerow([upstream, *values, *total])
    return text.getvalue()


def every_score(table: Table) -> str:
    """A row per upstream, task and seed with all that the value hangs on, and with the official value where the protocol chooses on test."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _EVERY, lineterminator="\n")
    writer.writeheader()
    for (upstream, task), cell in _in_order(table):
        for row, official in zip_longest(cell.rows, cell.official_rows):  # of all rows or of none
            said = row.more
            line = {
                "upstream": upstream, "task": task, "seed": row.seed, "metric": cell.metric, "unit": row.unit, "value": row.value,
                "protocol": table.marks.get((upstream, task)),
                **{key: said.get(key) for key in ("learning_rate", "layer", "step", "selection", "parameters", "variant")},
            }  # fmt: skip
            if official is not None:
                line |= {"official_value": official.value}
                line |= {f"official_{key}": official.more.get(key) for key in ("learning_rate", "step", "selection")}
            writer.writerow(line)
    return text.getvalue()


def page(table: Table) -> str:
    """One file that needs nothing beside it."""
    scores = html.Section("Scores", [_html(_headings(table), _rows(table))])
    scores.body += [f"<p>{escape(note)}</p>" for note in table.notes]
    choice = html.Section("How they were chosen", [_html(_CHOICE, _plain(_choices(table)))])
    cost = html.Section("What they cost", [_html(_COST, _plain(_costs(table))), f"<p>{escape(_COST_NOTE)}</p>"])
    return html.page(_TITLE, table.upstreams, [scores, _layers(table), choice, cost])


_COST_NOTE = (
    "forwards: utterances that went through the upstream, without those whose features were kept from before. alone: how many training each head by itself would have "
    "taken. Tasks that shared a stream (with ...) count all of its forwards and seconds each. Memory: peak of the process. Energy: of the processor, where the machine tells it. Sums over seeds; memory is the largest."
)


def _layers(table: Table) -> html.Section:
    """How much each layer counts, a plot per task; tasks of one layer and sources of one have none."""
    from audiossl.diagnostics import figures

    section = html.Section("Layers")
    for task in table.tasks:
        shares = {
            upstream: np.array(cell.last.more["layer_weights"])
            for upstream, cell in table.column(task).items()
            if len(cell.last.more.get("layer_weights", ())) > 1
        }
        if shares:
            picture = figures.render(partial(_draw_shares, shares=shares), size=(9.0, 2.8))
            section.body.append(html.figure(picture, f"{task.upper()}: weight of each layer, last seed"))
        else:
            section.missing.append(f"{task} has no layers to weigh")
    return section


def _draw_shares(figure: Figure, shares: dict[str, np.ndarray]) -> None:
    from audiossl.diagnostics.figures import draw_layer_weights

    draw_layer_weights(figure, shares)
    figure.axes[0].set_ylim(0.0, 1.2 * max(values.max() for values in shares.values()))


def _headings(table: Table) -> list[str]:
    metrics = [_metric(table, task) for task in table.tasks]
    named = [
        f"{task.upper()} {_called(metric)} {'↓' if lower_is_better(metric) else '↑'}"
        for task, metric in zip(table.tasks, metrics, strict=True)
    ]
    return ["upstream", *named, *([_TOTAL] if table.totals else [])]


def _called(metric: str) -> str:
    """Write short names as the abbreviations that they are."""
    return metric.upper() if len(metric) <= 4 else metric.replace("_", " ")


def _metric(table: Table, task: str) -> str:
    return next(iter(table.column(task).values())).metric


def _rows(table: Table) -> list[list[tuple[str, bool]]]:
    """(text, whether it is the best of its column) of every cell; "" where there is no score."""
    top = max(table.totals.values(), default=0.0)
    rows = []
    for upstream in table.upstreams:
        row = [(upstream, False)]
        for task in table.tasks:
            cell = table.cells.get((upstream, task))
            mark = table.marks.get((upstream, task))
            text = "" if cell is None else _value(cell) + (f" ({mark})" if mark else "")
            # Where the protocols differ nobody is the best.
            row.append((text, cell is not None and mark is None and cell.value == table.best(task)))
        if table.totals:
            total = table.totals.get(upstream)
            row.append(("" if total is None else f"{total:.0f}", total == top))
        rows.append(row)
    return rows


def _value(cell: Cell) -> str:
    return _mean(cell.value, cell.spread)


def _mean(value: float, spread: float | None) -> str:
    return shown(value) if spread is None else f"{shown(value)} ± {shown(spread)}"


def _choices(table: Table) -> list[list[str]]:
    rows = []
    for (upstream, task), cell in _in_order(table):
        said = cell.last.more
        rates, steps = _heads(cell.rows)
        official_rates, official_steps = _heads(cell.official_rows)
        seeds = " ".join("none" if seed is None else str(seed) for seed in cell.seeds)
        official = "" if cell.official is None else _mean(cell.official, cell.official_spread)
        value = f"{cell.metric} {_value(cell)} {cell.last.unit}".strip()
        rows.append([
            upstream, task, value, rates, steps, seeds, str(said.get("selection")), official, official_rates, official_steps,
            _number(said.get("parameters")),
        ])  # fmt: skip
    return rows


def _costs(table: Table) -> list[list[str]]:
    rows = []
    for (upstream, task), cell in _in_order(table):
        said = [row.more for row in cell.rows]
        joules = [one["joules"] for one in said if one["joules"] is not None]
        energy = f"{sum(joules) / 1e3:.3g}" if len(joules) == len(said) else ""
        others = said[-1].get("forwards_shared_with", ())
        rows.append([
            upstream, f"{task} (with {' '.join(others)})" if others else task, *(str(sum(one[key] for one in said)) for key in ("forwards", "alone_forwards")),
            f"{sum(one['seconds'] for one in said):.1f}", f"{max(one['peak_bytes'] for one in said) / 1e9:.2f}", energy,
        ])  # fmt: skip
    return rows


def _in_order(table: Table) -> list[tuple[tuple[str, str], Cell]]:
    places = [(upstream, task) for upstream in table.upstreams for task in table.tasks]
    return [(place, table.cells[place]) for place in places if place in table.cells]


def _heads(rows: list[Result]) -> tuple[str, str]:
    """Return the learning rates and the steps of the heads that some rows are of, each once."""
    rates = dict.fromkeys(_rate(row.more) for row in rows)
    steps = dict.fromkeys(_number(row.more.get("step")) for row in rows)
    return " ".join(rates), " ".join(steps)


def _rate(said: dict[str, Any]) -> str:
    """Return the learning rate; where nothing is trained, the layer."""
    rate = said.get("learning_rate")
    return f"layer {said['layer']}" if rate is None and "layer" in said else _number(rate)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _plain(rows: list[list[str]]) -> list[list[tuple[str, bool]]]:
    return [[(text, False) for text in row] for row in rows]


def _pipes(headings: list[str] | tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html(headings: list[str] | tuple[str, ...], rows: list[list[tuple[str, bool]]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{f'<b>{escape(text)}</b>' if bold else escape(text)}</td>" for text, bold in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
