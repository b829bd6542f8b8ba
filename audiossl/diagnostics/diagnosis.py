"""A diagnosis from a subject to `diagnosis.html` and `results.json`: one analysis after another, each skipped with a reason where it must be."""

from __future__ import annotations

from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from audiossl.config import build, to_table
from audiossl.diagnostics import analyses
from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.page import Section, page
from audiossl.diagnostics.results import add_result
from audiossl.files import whole_file
from audiossl.registry import names, suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from audiossl.diagnostics.subject import Subject

PAGE = "diagnosis.html"
_FOUND = ("learning_rate", "std", "standard_error")
"""What a number says of itself that may differ where the same is measured again."""


def configured(only: Sequence[str], overrides: dict[str, Any]) -> dict[str, Any]:
    """Config of each analysis that is to run, all where `only` is empty; ValueError for a name or a key that is none."""
    known = names(analyses.KIND)
    wanted = sorted(set(only)) or known
    strange = next((name for name in [*wanted, *overrides] if name not in known), None)
    if strange is not None:
        raise ValueError(f"unknown analysis {strange!r}; {suggestion(strange, known)}")
    return {name: build(analyses.get(name).Config, overrides.get(name, {}), name) for name in wanted}


def takers(option: str) -> list[str]:
    """Names of the analyses that an option or a table of options is for, one that several share or their own."""
    return [name for name in names(analyses.KIND) if option in (name, *getattr(analyses.get(name), "TAKES", ()))]


def diagnose(subject: Subject, configs: dict[str, Any], **facts: Any) -> dict[str, Finding | SkippedError | ValueError]:
    """Run analyses and write the page and the results; returns what each found, or why it was skipped or failed.

    facts: what the page and every result say of the data. Results, which say their settings too, are written as soon as an analysis is done, in the
    place of the same ones of an earlier diagnosis. ValueError, before any encoder runs, for what an analysis can tell beforehand.
    """
    for name, config in configs.items():
        if hasattr(analyses.get(name), "check"):
            analyses.get(name).check(subject, config)
    found: dict[str, Finding | SkippedError | ValueError] = {}
    for name, config in configs.items():
        subject.log(f"{name} ...")
        try:
            found[name] = finding = analyses.get(name).run(subject, config)
        except (SkippedError, ValueError) as reason:
            found[name] = reason
            continue
        said = {**facts, **_settings(name, config, subject)}
        for number in finding.numbers:
            context = {**said, **number.more} | ({} if number.layer is None else {"layer": number.layer})
            same = [key for key in ("seed", *context) if key not in _FOUND]
            add_result(subject.out, number.name, number.value, number.unit, same=same, seed=subject.seed, **context)
    _write(subject.out / PAGE, found, facts)
    return found


def _settings(name: str, config: Any, subject: Subject) -> dict[str, Any]:
    """What an analysis is done with, by the options of the command line: `memorisation.draws`."""
    shared = {"probe": subject.probe, "views": subject.view}
    tables = {name: config} | {option: of for option, of in shared.items() if name in takers(option)}
    # None is said too: it tells from a row where there was something.
    plain = {table: dict.fromkeys(item.name for item in fields(of)) | to_table(of) for table, of in tables.items()}
    found = {f"{table}.{key}": value for table, values in plain.items() for key, value in values.items()}
    return found | ({"split": "/".join(f"{share:g}" for share in subject.shares)} if "probe" in tables else {})


def _write(out: Path, found: dict[str, Finding | SkippedError | ValueError], facts: dict[str, Any]) -> None:
    sections = [_data(facts)]
    for name, finding in found.items():
        section = Section(analyses.get(name).TITLE)
        if isinstance(finding, Finding):
            finding.tabulate()
            section.body += [f"<p>{escape(note)}</p>" for note in finding.notes] + finding.body
        else:
            section.missing.append(" ".join(str(finding).split()))
        sections.append(section)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial:
        partial.write_text(page("Diagnosis", [str(facts["source"])], sections), encoding="utf-8")


def _data(facts: dict[str, Any]) -> Section:
    shown = Finding()
    shown.table(
        ["what", "value"], [[name.replace("_", " "), str(value)] for name, value in facts.items() if value is not None]
    )
    return Section("Data", shown.body)
