"""Work that holds Python's lock, in processes of its own.

Nothing heavy is imported here: a new process sets the number of its threads before it imports what would read it.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


def in_processes(work: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Return the results in order. work: of a module, so that it can be named elsewhere. workers: 0 works here.

    The processes live until this one ends, since starting them costs seconds; they are not forked, which no accelerator survives.
    """
    if workers == 0:
        return [work(item) for item in items]
    return list(_pool(workers).map(work, items))


@cache
def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
