"""One file per analysis of `audiossl diagnose`, found by its name.

Each has `TITLE`, a frozen dataclass `Config` (the table of its name on the command line) and `run(subject, config) -> Finding`, which raises
`SkippedError` with the reason where the data lack what it needs. `TAKES`, where it has one, names what it takes of the options that several share:
`probe`, `views`, `against`, `train`. `check(subject, config)`, where it has one, raises ValueError before any encoder runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from audiossl.registry import names, suggestion

if TYPE_CHECKING:
    from audiossl.diagnostics.finding import Finding
    from audiossl.diagnostics.subject import Subject

KIND = "diagnostics/analyses"


class Analysis(Protocol):
    """A module of this folder."""

    TITLE: str
    Config: type[Any]

    def check(self, subject: Subject, config: Any) -> None:
        """Where it is there: ValueError for what the user can mend, before any encoder runs."""
        ...

    def run(self, subject: Subject, config: Any) -> Finding:
        """Measure; ValueError for what the user can mend."""
        ...


def get(name: str) -> Analysis:
    """Return an analysis by name; ValueError names what was probably meant."""
    known = names(KIND)
    if name not in known:
        raise ValueError(f"unknown analysis {name!r}; {suggestion(name, known)}")
    return cast("Analysis", importlib.import_module(f"audiossl.diagnostics.analyses.{name}"))
