"""Files that are written whole or not at all, whatever the disk does, and errors that say which file it was."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import os
import platform
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where no more can be written: of the disk, of the user's share of it, of one file."""

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})
"""What the system says where a file system has no locks, or none for folders."""

_RUST = re.compile(r"\(os error (\d+)\)")
_SHORT = re.compile(r"^\d+ requested and \d+ written$|PytorchStreamWriter failed writing|unexpected pos \d+")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give `path.partial` to write; it becomes `path` if all went well and is removed otherwise. See `naming`."""
    with whole_set([path], []) as ([partial], _):
        yield partial


@contextmanager
def whole_set(paths: Sequence[Path], marks: Sequence[Path]) -> Iterator[tuple[list[Path], list[Path]]]:
    """Like `whole_file` for files that belong together: nothing is replaced before all are written.

    marks: those whose presence says that the set is whole; while the others are replaced they are absent, so that a kill
    leaves no old mark beside a new file. Gives the places to write (paths, marks).
    """
    partials = [[path.with_name(path.name + ".partial") for path in group] for group in (paths, marks)]
    try:
        with naming(paths[0]):
            yield partials[0], partials[1]
            for mark in marks:
                mark.unlink(missing_ok=True)
            for partial, path in zip([*partials[0], *partials[1]], [*paths, *marks], strict=True):
                partial.replace(path)
    except BaseException:
        for partial in (*partials[0], *partials[1]):
            partial.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where what can be made again is kept for a user: XDG_CACHE_HOME, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiossl"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what libraries raise where the disk is full into an OSError with its reason and `path`: writing, unlike opening, names no file."""
    try:
        yield
    except Exception as error:
        number = full_disk(error)
        if number is None or getattr(error, "filename", None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def full_disk(error: Exception) -> int | None:
    """Return the system's number of an error that means a full disk, None for any other."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL_DISK else None
    rust = _RUST.search(str(error))
    if rust:  # of safetensors, whose own class says nothing more
        return int(rust[1]) if int(rust[1]) in FULL_DISK else None
    # NumPy and torch only say that less was written than should have been.
    return errno.ENOSPC if isinstance(error, OSError | RuntimeError) and _SHORT.search(str(error)) else None


@contextmanager
def locked(folder: Path, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the folder itself, once other processes let it go: no lock file is left behind, and a killed process holds nothing.

    waits: is told where another process has it. File systems without locks go without.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waits is not None:
                waits(f"{folder}: another run is at work here; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a loader's workers may have the descriptor too
        os.close(descriptor)


def take(lock: IO[str], place: Path) -> None:
    """Lock a file, and write there who did; ValueError where another process that writes `place` has it. File systems without locks go without.

    Not by flock, which workers would inherit, and hold some seconds after a kill.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        raise ValueError(
            f"{place}: another run ({lock.read() or 'just begun'}) writes here; wait for it, or choose another --out"
        ) from None
    except OSError:
        return
    with suppress(OSError):
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {platform.node()}")
        lock.flush()


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raise ValueError, before long work, where the file `path` could not be written or would replace another one."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name the file to write")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder; make it, or choose another --out")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; choose another --out, or --overwrite")


def require_same(path: Path, new: Path) -> None:
    """Raise ValueError where `path` is there and holds something else than the file `new` that is to replace it."""
    if path.exists() and not (path.is_file() and filecmp.cmp(new, path, shallow=False)):
        raise ValueError(f"{path}: exists already and holds something else; choose another --out, or --overwrite")


def require_folder(path: Path) -> None:
    """Raise ValueError where `path` is no folder and none can be made there, since it or what it lies in is a file."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            kind = "a file" if place.exists() else "a link to nothing"
            where = "" if place == path else f"{place} "
            raise ValueError(f"{path}: {where}is {kind}, no folder; choose another --out or remove it")
