"""Scores of several upstreams beside one another: a row per upstream, a column per task, and what may not be compared said so."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audiossl.diagnostics.results import FILE_NAME, Result, read_results, shown
from audiossl.diagnostics.sources import FILTERBANKS
from audiossl.superb.job import essential

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_TEN = frozenset(("pr", "asr", "ks", "qbe", "sid", "asv", "sd", "ic", "sf", "er"))
"""The tasks of SUPERB, of which its score is made."""
_ORDER = ("pr", "asr", "ood", "st", "ks", "qbe", "sid", "asv", "sd", "ic", "sf", "er", "ss", "se", "vc")
_MEANS = {
    "ood": ("ood_es", "ood_zh", "ood_ar", "ood_sbcsae"),
    "vc": ("vc_tef1", "vc_tef2", "vc_tem1", "vc_tem2"),
}
"""Tasks of SUPERB-SG whose score is the mean of several."""
_LOWER = frozenset(("per", "wer", "cer", "slot_cer", "eer", "der", "mcd"))
_RANDOM = "random:"
_OFFICIAL = " (official)"


@dataclass(frozen=True)
class Cell:
    """What one upstream reached on one task.

    rows: of the metric shown, one per seed, all by one protocol. official_rows: of the same seeds, what the official protocol's choice on test gives; none
    where dev chooses there too. key: the protocol and the data, in one string.
    """

    rows: list[Result]
    official_rows: list[Result]
    key: str

    @property
    def last(self) -> Result:
        """The newest row."""
        return self.rows[-1]

    @property
    def metric(self) -> str:
        """What is shown, as `evaluate` of the task calls it."""
        return str(self.last.more["shown"])

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(row.value for row in self.rows)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for a single one."""
        return statistics.stdev(row.value for row in self.rows) if len(self.rows) > 1 else None

    @property
    def official(self) -> float | None:
        """Mean over seeds of what the official protocol's choice on test gives; None where dev chooses there too."""
        return statistics.fmean(row.value for row in self.official_rows) if self.official_rows else None

    @property
    def official_spread(self) -> float | None:
        """Its standard deviation over seeds (n - 1); None for a single one."""
        return statistics.stdev(row.value for row in self.official_rows) if len(self.official_rows) > 1 else None

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Seeds, sorted."""
        return tuple(sorted((row.seed for row in self.rows), key=lambda seed: -1 if seed is None else seed))


@dataclass(frozen=True)
class Table:
    """Rows, columns and what is in them.

    cells: by (upstream, task). marks: letter of a cell whose column holds several protocols. totals: the SUPERB score of each upstream
    that has one. notes: everything that a reader must know before comparing.
    """

    upstreams: list[str]
    tasks: list[str]
    cells: dict[tuple[str, str], Cell]
    marks: dict[tuple[str, str], str]
    totals: dict[str, float]
    notes: list[str]

    def column(self, task: str) -> dict[str, Cell]:
        """Cells of a task by upstream."""
        return {upstream: cell for (upstream, name), cell in self.cells.items() if name == task}

    def best(self, task: str) -> float:
        """The best value of a column."""
        return _best(self.column(task).values())


def lower_is_better(metric: str) -> bool:
    """Whether a metric counts errors."""
    return metric in _LOWER


def read_scores(folders: Sequence[Path]) -> list[Result]:
    """Return all scores below some folders, oldest first; ValueError where there is none."""
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give what `audiossl superb --out` wrote")
    files = {path.resolve() for folder in folders for path in folder.rglob(FILE_NAME)}
    rows = [row for path in sorted(files) for row in read_results(path) if _is_score(row)]
    if not rows:
        places = ", ".join(map(str, folders))
        raise ValueError(f"{places}: no score of SUPERB in any {FILE_NAME}; run `audiossl superb TASK --out` first")
    return sorted(rows, key=lambda row: row.date)


def make_table(rows: Sequence[Result]) -> Table:
    """Put scores side by side. Of each upstream, task and seed the newest counts, and only those by the protocol of the newest of all."""
    notes: list[str] = []
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((row.more["upstream"], row.more["task"]), []).append(row)
    cells = {}
    for place, group in groups.items():
        shown = [row for row in group if row.name == f"superb {place[1]} {row.more['shown']}"]
        if shown:
            cells[place] = _cell(place, shown, group, notes)
    upstreams = sorted(dict.fromkeys(upstream for upstream, _ in cells), key=_upstream_order)
    tasks = sorted(dict.fromkeys(task for _, task in cells), key=_task_order)
    marks = _marks(cells, tasks, notes)
    _tell_variants(cells, tasks, notes)
    _tell_means(cells, upstreams, tasks, notes)
    totals = _totals(cells, upstreams, [task for task in tasks if task in _TEN], notes)
    return Table(upstreams, tasks, cells, marks, totals, notes)


def _is_score(row: Result) -> bool:
    return row.name.startswith("superb ") and {"task", "upstream", "shown"} <= row.more.keys()


def _cell(place: tuple[str, str], shown: list[Result], group: list[Result], notes: list[str]) -> Cell:
    newest = shown[-1]
    kept = [row for row in shown if _key(row) == _key(newest) and _same_weights(row, newest)]
    by_seed = {row.seed: row for row in kept}  # the newest of each seed
    if len(kept) < len(shown):
        upstream, task = place
        notes.append(
            f"{task} of {upstream}: {len(shown) - len(kept)} older scores are left out, by another protocol, on other data or of other weights"
        )
    chosen = sorted(by_seed.values(), key=lambda row: row.date)
    told = [row for row in group if row.name == f"{newest.name}{_OFFICIAL}"]
    official = [[row for row in told if _goes_with(row, one)][-1:] for one in chosen]  # the newest of each seed
    # All seeds or none: a mean of others could not stand beside this one.
    return Cell(chosen, [row for rows in official for row in rows] if all(official) else [], _key(newest))


def _key(row: Result) -> str:
    return json.dumps(_protocol(row), sort_keys=True)


def _protocol(row: Result) -> dict[str, Any]:
    """Everything that two scores must share to be compared, flat; what is told beside the metric is no part of it."""
    return {
        **essential(row.more.get("protocol", {})), "data": str(row.more.get("data", "unknown"))[:8], "metric": row.more["shown"],
        "selection": row.more.get("selection"),
    }  # fmt: skip


def _same_weights(row: Result, other: Result) -> bool:
    """An experiment that was trained further is another upstream; random weights differ from seed to seed."""
    if str(row.more["upstream"]).startswith(_RANDOM):
        return True
    return row.more.get("upstream_digest") == other.more.get("upstream_digest")


def _goes_with(official: Result, row: Result) -> bool:
    """Whether both were written for one run."""
    same = ("protocol", "data", "upstream_digest")
    return official.seed == row.seed and all(official.more.get(key) == row.more.get(key) for key in same)


def _marks(cells: dict[tuple[str, str], Cell], tasks: list[str], notes: list[str]) -> dict[tuple[str, str], str]:
    """Give the protocols of a column letters where there are several, and write down in what they differ."""
    marks: dict[tuple[str, str], str] = {}
    for task in tasks:
        places = [place for place in cells if place[1] == task]
        keys = list(dict.fromkeys(cells[place].key for place in places))
        if len(keys) > 1:
            letters = dict(zip(keys, "abcdefghijklmnopqrstuvwxyz", strict=False))
            marks |= {place: letters[cells[place].key] for place in places}
            settings = [json.loads(key) for key in keys]
            differing = sorted(
                {name for one in settings for name in one if any(one[name] != other.get(name) for other in settings)}
            )
            told = "; ".join(
                f"({letter}) " + ", ".join(f"{name} {one.get(name)}" for name in differing)
                for letter, one in zip(letters.values(), settings, strict=True)
            )
            notes.append(f"{task}: not comparable, the protocols differ: {told}")
        if len({cells[place].seeds for place in places}) > 1:
            told = "; ".join(f"{place[0]}: {_listed(cells[place].seeds)}" for place in places)
            notes.append(f"{task}: seeds differ: {told}")
    return marks


def _tell_variants(cells: dict[tuple[str, str], Cell], tasks: list[str], notes: list[str]) -> None:
    """Say in what a column differs from the published protocol, of each upstream by itself where they are not alike."""
    for task in tasks:
        by_variant: dict[str, list[str]] = {}
        for (upstream, name), cell in cells.items():
            if name == task:
                by_variant.setdefault(str(cell.last.more.get("variant", "")), []).append(upstream)
        for variant, upstreams in by_variant.items():
            if variant:
                place = task if len(by_variant) == 1 else f"{task} of {', '.join(upstreams)}"
                notes.append(f"{place}: not the published protocol: {variant}")


def _tell_means(cells: dict[tuple[str, str], Cell], upstreams: list[str], tasks: list[str], notes: list[str]) -> None:
    """Write down the mean over those parts of a task that are there, of each upstream that has all of these."""
    for task, parts in _MEANS.items():
        there = [part for part in parts if part in tasks]
        whole = [upstream for upstream in upstreams if all((upstream, part) in cells for part in there)]
        if len(there) < 2 or not whole:
            continue
        told = []
        for upstream in whole:
            row = [cells[upstream, part] for part in there]
            official = [cell.official for cell in row if cell.official is not None]
            also = f" ({shown(statistics.fmean(official))} chosen on test)" if len(official) == len(row) else ""
            told.append(f"{upstream} {shown(statistics.fmean(cell.value for cell in row))}{also}")
        left = [part for part in parts if part not in there]
        lack = f"; the published mean has {', '.join(left)} too" if left else ""
        notes.append(f"{task}: mean of {', '.join(there)}: {', '.join(told)}{lack}")


def _listed(seeds: Iterable[int | None]) -> str:
    return " ".join("none" if seed is None else str(seed) for seed in seeds)


def _totals(
    cells: dict[tuple[str, str], Cell], upstreams: list[str], tasks: list[str], notes: list[str]
) -> dict[str, float]:
    """SUPERB score: 1000 / |T| sum over tasks t of (s_t(u) - s_t(FBANK)) / (s_t(best) - s_t(FBANK)), as the ML-SUPERB paper writes it (unverified).

    s_t: the metric shown, as dev chose it also where the official protocol chooses on test. FBANK: `fbank+deltas+cmvn`, the baseline of the protocol, else `fbank+deltas`, else `fbank`. best: of this table, where the published scores take the
    best of their leaderboard. T: tasks by one protocol that the baseline has and somebody does better on. An upstream without one of them has no score.
    """
    baseline = next((name for name in reversed(FILTERBANKS) if name in upstreams), None)
    if baseline is None or len(upstreams) < 2:
        return {}
    scales = {}
    for task in tasks:
        column = {upstream: cell for (upstream, name), cell in cells.items() if name == task}
        if baseline in column and len({cell.key for cell in column.values()}) == 1:
            floor, top = column[baseline].value, _best(column.values())
            if top != floor:
                scales[task] = (floor, top - floor)
    left_out = [task for task in tasks if task not in scales]
    totals = {
        upstream: 1000.0 / len(scales) * sum((cells[upstream, t].value - floor) / width for t, (floor, width) in scales.items())
        for upstream in upstreams
        if scales and all((upstream, task) in cells for task in scales)
    }  # fmt: skip
    if totals:
        notes.append(
            f"SUPERB score: mean over {', '.join(scales)} of 1000 (s - {baseline}) / (best of this table - {baseline}); "
            "s: the values shown, none of them chosen on test; published scores have another best, and do not compare"
            + (
                f"; without {', '.join(left_out)}: several protocols, no score of {baseline}, or none better"
                if left_out
                else ""
            )
        )
    return totals


def _best(cells: Iterable[Cell]) -> float:
    found = list(cells)
    return (min if lower_is_better(found[0].metric) else max)(cell.value for cell in found)


def _upstream_order(name: str) -> tuple[int, str]:
    return (0 if name in FILTERBANKS else 1 if name.startswith(_RANDOM) else 2), name


def _task_order(name: str) -> tuple[int, str]:
    family = name.partition("_")[0]  # `ood_es` stands beside `ood`
    return (_ORDER.index(family) if family in _ORDER else len(_ORDER)), name
