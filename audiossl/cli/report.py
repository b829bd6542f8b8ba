"""Put experiments on one page: results, losses, probes and units."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from audiossl.cli._printed import answer, log
from audiossl.cli.main import MisuseError


def main(
    experiments: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    out: Path | None = None,
    title: str = "Experiments",
    compare: bool = False,
    data: Path | None = None,
    units: str = "",
    utterance: str = "",
    reference: Path | None = None,
    corpus: str = "",
    json: bool = False,
) -> int:
    """Put experiments on one page: a table of their results on the terminal and, with --out, a self-contained HTML file.

    What an experiment does not hold is left out and named.

    Example: audiossl report exp/hubert exp/wav2vec2 --compare --out report.html --data data/dev --units km100
    Example: audiossl report exp/hubert --reference hubert_nano.jsonl --corpus mini

    Args:
        experiments: folders with results.json, metrics.jsonl or probe.json in or below them.
        out: HTML file to write.
        title: heading of the page.
        compare: one column per experiment instead of one row per result, and the metrics of training over one another and over the reference that ships with the recipe.
        data: data directory whose units are shown.
        units: name of the units in it.
        utterance: utterance to show with its units and phones (default: the first).
        reference: instead of a report, write what this one finished experiment measured, thinned, as a reference for others.
        corpus: for --reference: what the data are called.
        json: print the results as JSON instead of a table.
    """
    from rich.console import Console

    from audiossl.diagnostics.report import Options, gather_results, name_experiments, write_report
    from audiossl.diagnostics.results import results_table

    if not experiments:
        raise MisuseError("audiossl report: no experiment is given; name at least one folder")
    page = {
        "--title": title != "Experiments",
        "--compare": compare,
        "--data": data,
        "--units": units,
        "--utterance": utterance,
    }
    given = [name for name, value in page.items() if value]
    if reference is not None or corpus:
        given += [name for name, value in (("--out", out), ("--json", json)) if value]
        return _write_reference(experiments, reference, corpus, given)
    if out is None and given:
        raise MisuseError(f"audiossl report: {' and '.join(given)}: for the page; add --out FILE")
    rows, missing = gather_results(name_experiments(experiments))
    if out is not None:
        missing = write_report(experiments, out, Options(title, compare, data, units, utterance), log=log)
    for line in missing:
        log(f"not shown: {line}")
    answer([{"experiment": name, **asdict(result)} for name, result in rows], json=json)
    if rows and not json:
        Console(soft_wrap=True).print(results_table(rows))
    if out is not None:
        log(f"wrote {out}")
    return 0


def _write_reference(experiments: tuple[Path, ...], reference: Path | None, corpus: str, strange: list[str]) -> int:
    from audiossl.diagnostics.curves import write_reference

    if reference is None or not corpus or len(experiments) != 1:
        raise MisuseError("audiossl report: a reference is of one experiment; give EXP --reference FILE --corpus NAME")
    if strange:
        raise MisuseError(f"audiossl report: {' and '.join(strange)}: not for --reference; leave them out")
    made = write_reference(experiments[0], reference, corpus)
    points = max(len(curve.steps) for kinds in made.curves.values() for curve in kinds.values())
    log(f"wrote {reference}: {', '.join(made.curves)}, {points} points")
    return 0
