"""Show how far long work has come: a bar on a terminal, else a line every few seconds for a log file."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

LINE_EVERY = 10.0
"""Seconds between two plain lines."""


def progress(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield the items of `iterable` and show progress on stderr.

    total: number of items, None where unknown. A plain line also ends work that was long enough to have shown one.
    """
    return _bar(iterable, total, label) if sys.stderr.isatty() else _lines(iterable, total, label)


def _bar(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(iterable, total=total, description=label)


def _lines(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    start = shown = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= LINE_EVERY:
            shown = now
            print(_line(label, done, total, now - start), file=sys.stderr, flush=True)
    if shown > start:
        print(_line(label, done, total, time.monotonic() - start), file=sys.stderr, flush=True)


def _line(label: str, done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{label}: {done} in {seconds:.0f} s"
    return f"{label}: {done}/{total} ({100 * done / total:.0f} %) in {seconds:.0f} s"
