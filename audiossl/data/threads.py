"""Work that waits for the disk, in threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from audiossl.data.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 4096


def in_threads(work: Callable[[T], R], items: Iterable[T], total: int | None, label: str) -> Iterator[tuple[T, R]]:
    """Yield (item, work(item)) in order and show progress; holds a few thousand items.

    More threads than cores: reading a header waits for the disk, and libsndfile holds no lock of Python's.
    """
    pending = iter(items)

    def results(pool: ThreadPoolExecutor) -> Iterator[tuple[T, R]]:
        while chunk := list(islice(pending, _CHUNK)):  # in chunks, as `map` queues all its input
            yield from zip(chunk, pool.map(work, chunk), strict=True)

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        yield from progress(results(pool), total, label)
