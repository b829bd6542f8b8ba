"""Text files of a few words per line, by the block: what trial lists and score files share.

A block is split and its words are numbered by loops inside Python and NumPy, and then it is gone: what stays is a few bytes per
line and each name once.
"""

from __future__ import annotations

import codecs
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_BLOCK = 1 << 22  # bytes
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))


class Numbering:
    """Gives every new name the next number."""

    def __init__(self) -> None:
        self._numbers: defaultdict[bytes, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__

    def numbers(self, words: Sequence[bytes]) -> np.ndarray:
        """(word,) int32, the number of each word."""
        return np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words))

    def names(self, path: Path, places: Sequence[np.ndarray]) -> list[str]:
        """All names in the order of their numbers; ValueError names the first line of one that is not UTF-8.

        places: columns of numbers, (line,) each, to find that line.
        """
        try:
            return [word.decode() for word in self._numbers]
        except UnicodeDecodeError as error:
            wrong = self._numbers[error.object]
            line = min(int(np.argmax(column == wrong)) for column in places if (column == wrong).any()) + 1
            raise ValueError(f"{path}:{line}: not UTF-8 ({error.reason}); convert the file with iconv") from None


def read_columns(
    path: Path, width: int, shape: str, *, further: bool = False
) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Yield (number of the first line, `width` columns of words) by blocks of a few megabytes.

    shape: what a line should be, for the message. further: whether lines may have more columns, all as many as the first; they are
    not read, and the log says so. A byte order mark is passed over. ValueError names file and line where there are more or fewer words, and a file that is missing,
    empty or a folder.
    """
    first, words_per_line = 1, width
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check its path") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder; give a file of `{shape}` lines") from None
    with file:
        if file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):  # a pipe cannot be read again
            file.read(len(codecs.BOM_UTF8))
        while block := file.read(_BLOCK) + file.readline():
            counts = _words_per_line(block)
            if first == 1 and further and counts[0] > width:
                words_per_line = int(counts[0])
                _LOG.warning("%s: lines of %d words: what follows `%s` is not read", path, words_per_line, shape)
            if (counts != words_per_line).any():
                place = int(np.argmax(counts != words_per_line))
                shown = block.split(b"\n")[place].decode(errors="replace").strip()
                wanted = (
                    f"`{shape}`" if words_per_line == width else f"`{shape}` and {words_per_line - width} more words"
                )
                raise ValueError(f"{path}:{first + place}: {shown!r} is not {wanted}; correct the line")
            words = block.split()
            yield first, [words[column::words_per_line] for column in range(width)]
            first += len(counts)
    if first == 1:
        raise ValueError(f"{path}: is empty; give a file of `{shape}` lines")


def _words_per_line(block: bytes) -> np.ndarray:
    """(line,) int, by the notions of a word and of a line that `bytes.split` and `readline` have."""
    characters = np.frombuffer(block, np.uint8)
    space = _IS_SPACE[characters]
    begins = np.empty(len(space), dtype=np.bool_)
    begins[0] = not space[0]
    np.logical_and(space[:-1], ~space[1:], out=begins[1:])
    starts = np.flatnonzero(characters == ord("\n")) + 1
    if len(starts) and starts[-1] == len(characters):
        starts = starts[:-1]
    return np.add.reduceat(begins, np.concatenate([[0], starts]), dtype=np.int64)
