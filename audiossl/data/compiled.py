"""Loops that numba compiles when their file is first imported and keeps beside it or in the user's cache.

Where neither can be written they are compiled at every start, before there are workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for one signature, at once; in a cache where numba finds a place for one that can be written."""

    def compile_now(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, cache=True)(function)
        except (RuntimeError, OSError):  # no such place, or a disk that is full
            return njit(signature)(function)

    return compile_now
