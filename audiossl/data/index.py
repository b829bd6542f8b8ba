"""Memory-mapped tables: a row of a text file by number or by key, for 8 bytes per row that are never on the heap.

Under `.index/` in its data directory lies an `.npy` of int64 with the byte offset of each line in key order. It starts with the
size and the modification time of the source, and is built again when these changed. A lookup by key halves the sorted rows;
since the tables of a sound directory hold the same keys, the first guess nearly always hits.
"""

from __future__ import annotations

import codecs
import hashlib
import mmap
import os
import sys
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.kaldi import UNITS, split_line
from audiossl.files import cache_folder, naming

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_VERSION = 2
UNKNOWN = -2
"""In a signature: what was measured before holds, whatever this number was."""

_told: set[Path] = set()


class Table:
    """The rows of one table, sorted by key; pickles as its path.

    ValueError names file and line of an empty line, bytes that are not UTF-8 and a key that comes twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = _map(path)
        in_units = path.parent.name == UNITS
        directory = path.parent.parent if in_units else path.parent
        name = f"{UNITS}/{path.name}" if in_units else path.name
        self._offsets = cached(directory, name, signature(path), lambda: _line_offsets(path))

    def __len__(self) -> int:
        return len(self._offsets)

    def __reduce__(self) -> tuple[type[Table], tuple[Path]]:
        return Table, (self.path,)

    def row(self, index: int) -> tuple[str, str]:
        """Key and value of row `index`."""
        offset = int(self._offsets[index])
        end = self._data.find(b"\n", offset)
        line = self._data[offset : end if end >= 0 else len(self._data)]
        parts = line.split(None, 1)
        return parts[0].decode(), parts[1].rstrip().decode() if len(parts) == 2 else ""

    def key(self, index: int) -> str:
        """Key of row `index`."""
        return self._key(index).decode()

    def find(self, key: str, guess: int = -1) -> int:
        """Row of `key`, looked for at row `guess` first; -1 if there is none."""
        wanted = key.encode()
        if 0 <= guess < len(self) and self._key(guess) == wanted:
            return guess
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._key(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._key(low) == wanted else -1

    def line(self, index: int) -> int:
        """Line number of row `index` in the file, from 1; slow, for error messages."""
        end, count = int(self._offsets[index]), 1
        for start in range(0, end, 1 << 20):
            count += self._data[start : min(start + (1 << 20), end)].count(b"\n")
        return count

    def _key(self, index: int) -> bytes:
        offset = int(self._offsets[index])
        head = self._data[offset : offset + 128]
        while True:
            parts = head.split(None, 1)
            if parts and (
                len(parts) == 2 or len(parts[0]) < len(head.lstrip()) or offset + len(head) >= len(self._data)
            ):
                return parts[0]
            head = self._data[offset : offset + 2 * len(head)]


def cached(directory: Path, name: str, signed: tuple[int, ...], build: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the int64 array that `build` makes, memory-mapped from `name` in the index of `directory`.

    signed: what the result depends on, as of `signature`; another one builds it again, but where it has `UNKNOWN` any will do. If the directory cannot be written
    to, its index lies in the user's cache folder, which is said once.
    """
    header = np.array([_VERSION, len(signed), *signed], np.int64)
    folders = _index_folders(directory)
    file_name = f"{name.replace('/', '+')}.npy"
    for folder in folders:
        stored = _load(folder / file_name, header)
        if stored is not None:
            return stored
    body = build()
    assert body.dtype == np.int64
    content = np.concatenate([header, body])
    for folder in folders:
        try:
            _save(folder / file_name, content)
        except OSError as error:
            failure = error
            continue
        if folder is not folders[0] and folder not in _told:
            _told.add(folder)
            print(f"{folders[0]}: cannot be written; the index is kept in {folder}", file=sys.stderr)
        stored = _load(folder / file_name, header)
        return body if stored is None else stored  # another process may have written over it, or removed it
    raise ValueError(f"{folders[-1]}: cannot be written ({failure.strerror}); set XDG_CACHE_HOME to a writable folder")


def signature(*paths: Path, absent: int = -1) -> tuple[int, ...]:
    """Sizes and modification times (ns) of files, `absent` for one that cannot be looked at: what an index depends on."""
    numbers: list[int] = []
    for path in paths:
        try:
            status = path.stat()
        except (OSError, ValueError):  # of a recording, whose name may be anything
            numbers += [absent, absent]
        else:
            numbers += [status.st_size, status.st_mtime_ns]
    return tuple(numbers)


def _index_folders(directory: Path) -> tuple[Path, Path]:
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return directory / ".index", cache_folder() / "index" / name


def _load(path: Path, header: np.ndarray) -> np.ndarray | None:
    """Return the body of a stored index if it is whole and made from the same sources."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, unreadable, or damaged: built again
        return None
    if stored.ndim != 1 or stored.dtype != np.int64 or len(stored) < len(header):
        return None
    if not ((stored[: len(header)] == header) | (header == UNKNOWN)).all():
        return None
    return np.asarray(stored)[len(header) :]  # a plain view of the mapped file: `np.memmap` itself is slow to index


def _save(path: Path, content: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # By chance, because the ranks of one job, on several nodes, may build the same index at the same time.
    partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with naming(path), partial.open("wb") as file:
            np.save(file, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _map(path: Path) -> bytes | mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""  # an empty file cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the data directory") from None


def _line_offsets(path: Path) -> np.ndarray:
    """Byte offset of each line, in the order of the keys; the keys themselves are held only if they are not sorted."""
    offsets, position, last, in_order = array("q"), 0, "", True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            key, _ = split_line(line, path, number)
            if key == last:
                raise _twice(path, number, key)
            in_order = in_order and key > last
            marked = number == 1 and line.startswith(codecs.BOM_UTF8)
            offsets.append(position + (len(codecs.BOM_UTF8) if marked else 0))
            position += len(line)
            last = key
    result = np.frombuffer(offsets, np.int64) if offsets else np.empty(0, np.int64)
    return result if in_order else result[_sorted_rows(path)]


def _sorted_rows(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        keys = [split_line(line, path, number)[0] for number, line in enumerate(file, start=1)]
    rows = sorted(range(len(keys)), key=keys.__getitem__)
    for before, after in pairwise(rows):
        if keys[before] == keys[after]:
            raise _twice(path, after + 1, keys[after])
    return np.array(rows, np.int64)


def _twice(path: Path, number: int, key: str) -> ValueError:
    return ValueError(f"{path}:{number}: {key!r} comes twice; run `audiossl data fix {path.parent}`")
