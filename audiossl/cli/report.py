"""Put experiments on one page: results, losses, probes and units."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

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
    json: bool = False,
) -> int:
    """Put experiments on one page: a table of their results on the terminal and, with --out, a self-contained HTML file.

    What an experiment does not hold is left out and named.

    Example: audiossl report exp/hubert exp/wav2vec2 --compare --out report.html --data data/dev --units km100

    Args:
        experiments: folders with results.json, metrics.jsonl or probe.json in or below them.
        out: HTML file to write.
        title: heading of the page.
        compare: one column per experiment instead of one row per result.
        data: data directory whose units are shown.
        units: name of the units in it.
        utterance: utterance to show with its units and phones (default: the first).
        json: print the results as JSON instead of a table.
    """
    from rich.console import Console

    from audiossl.diagnostics.report import Options, gather_results, name_experiments, write_report
    from audiossl.diagnostics.results import results_table

    if not experiments:
        raise MisuseError("audiossl report: no experiment is given; name at least one folder")
    if out is None and (compare or data or units or utterance):
        raise MisuseError(
            "audiossl report: --compare, --data, --units and --utterance are for the page; add --out FILE"
        )
    rows, missing = gather_results(name_experiments(experiments))
    if out is not None:
        missing = write_report(experiments, out, Options(title, compare, data, units, utterance))
    for line in missing:
        print(f"not shown: {line}", file=sys.stderr)
    if json:
        print(json_module.dumps([{"experiment": name, **asdict(result)} for name, result in rows]))
    elif rows:
        Console(soft_wrap=True).print(results_table(rows))
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
    return 0
