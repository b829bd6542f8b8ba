"""What tells a recording from others without reading all of it, wherever it lies; and which recordings are looked at."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 100  # recordings of a directory that are looked at
_PIECE = 64 * 2**10  # bytes


def spread(count: int) -> list[int]:
    """Return up to 100 of `count` numbers from 0, evenly spread, the first and the last among them."""
    found: list[int] = np.linspace(0, max(count - 1, 0), min(count, _MOST)).astype(np.int64).tolist()
    return found


def file_excerpt(path: Path, offset: int = 0, size: int | None = None) -> bytes:
    """SHA-256 of the size, the first and a middle 64 KiB of a file, or of `size` bytes of it from `offset` on; b"" where it cannot be read."""
    try:
        if not path.is_file():
            return b""
        status = path.stat()
        return _excerpt(path.absolute(), offset, status.st_size if size is None else size, status.st_mtime_ns)
    except OSError:
        return b""


@lru_cache(maxsize=2**14)
def _excerpt(path: Path, offset: int, size: int, _written: int) -> bytes:
    """Read once by a process as long as the file stays as it is: several tasks ask for the same data."""
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        for start in (0, size // 2):
            file.seek(offset + start)
            digest.update(file.read(min(_PIECE, size - start)))
    return digest.digest()
