"""Units in a data directory: `units/<name>` (`utterance label label ...`) beside `units/<name>.json`, its card."""

from __future__ import annotations

import mmap
import os
import re
import shlex
import tempfile
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from audiossl.config import build, to_table
from audiossl.data.alignments import parse_labels
from audiossl.data.json_files import read_json_table, write_json
from audiossl.data.kaldi import UNITS, read_table, write_sorted_table
from audiossl.files import naming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

IMPORTED = "imported"
"""The `feature` of labels that `audiossl units import` made of another program's codes."""

_CURE = "make it with `audiossl units apply`"


@dataclass(frozen=True)
class UnitsCard:
    """Where the labels of a data directory come from.

    feature, encoder, layer, encoder_hash, full_scale: what was clustered, see `units.features.Features`; of imported codes, feature is `IMPORTED`, and encoder what made them. rate: labels per
    second; codebook_hash, codebook_size: by which codebook. utterances, labels: how many there are; left_out: utterances that could not be read.
    """

    feature: str
    encoder: str
    layer: int
    encoder_hash: str
    rate: float
    codebook_hash: str
    codebook_size: int
    utterances: int
    labels: int
    left_out: int
    full_scale: float | None = None


def set_names(name: str, codebooks: int) -> list[str]:
    """Names of the label sets of a codebook: `name` of a plain one, `name`_0, `name`_1 ... of one with several residual codebooks."""
    return [name] if codebooks == 1 else [f"{name}_{number}" for number in range(codebooks)]


def require_place(data: Path) -> None:
    """Raise ValueError, before work, where no labels could be written into a data directory."""
    folder = data / UNITS if (data / UNITS).is_dir() else data
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"{folder}: cannot be written, and units are kept there; "
            f"copy the tables by `audiossl data subset {shlex.quote(str(data))} NEW --part 1/1` and give NEW"
        )


def labels_path(data: Path, name: str) -> Path:
    """Return the path of the labels `name` of a data directory; ValueError for a name that is not a plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name) or name.endswith((".json", ".partial")):
        raise ValueError(f"units name {name!r}: use letters, digits, '_', '-', '+' and '.', as in 'mfcc_km100'")
    return data / UNITS / name


def card_path(data: Path, name: str) -> Path:
    """Return the path of the card of the labels `name`."""
    path = labels_path(data, name)
    return path.with_name(path.name + ".json")


def has_labels(data: Path, name: str) -> bool:
    """Tell whether `data` holds labels `name` that were written to the end."""
    return labels_path(data, name).is_file() and card_path(data, name).is_file()


def read_card(data: Path, name: str) -> UnitsCard:
    """Read `units/<name>.json`."""
    path = card_path(data, name)
    return build(UnitsCard, read_json_table(path, _CURE), str(path))


def write_card(data: Path, name: str, card: UnitsCard) -> None:
    """Write `units/<name>.json`, atomically."""
    write_json(card_path(data, name), to_table(card))


def read_labels(data: Path, name: str, *, codebook_size: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield (line number, utterance, labels (label,) int64); ValueError for what is no label of that codebook."""
    path = labels_path(data, name)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {_CURE}")
    for line, utterance, text in read_table(path):
        try:
            labels = parse_labels(text)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {utterance!r}: a label is not a whole number: {error}; {_CURE}") from None
        if len(labels) and not 0 <= labels.min() <= labels.max() < codebook_size:
            wrong = labels[(labels < 0) | (labels >= codebook_size)][0]
            raise ValueError(
                f"{path}:{line}: {utterance!r}: label {wrong} is not in the codebook of {codebook_size}; the table and "
                f"its card do not belong together, {_CURE}"
            )
        yield line, utterance, labels


class LabelWriter:
    """Takes labels in any order of utterances and writes the table in the order of their numbers, atomically.

    The lines wait on disk: memory is 16 bytes per utterance. Leaving the `with` block by an exception writes nothing.
    """

    def __init__(self, path: Path, codebook_size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._words = [str(code) for code in range(codebook_size)]
        self._numbers, self._offsets = array("q"), array("q", [0])
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by __exit__

    def add(self, number: int, utterance: str, labels: list[int]) -> None:
        """number: position of the utterance in the table, which is sorted by utterance."""
        words = self._words
        line = " ".join([utterance, *[words[label] for label in labels]]).encode()
        with naming(self._path):
            self._spool.write(line)
        self._numbers.append(number)
        self._offsets.append(self._offsets[-1] + len(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._spool:
            if error is None:
                with naming(self._path):
                    self._spool.flush()
                write_sorted_table(self._path, self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        if not self._numbers:
            return
        with mmap.mmap(self._spool.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            for position in np.argsort(np.frombuffer(self._numbers, dtype=np.int64), kind="stable").tolist():
                utterance, _, text = (
                    lines[self._offsets[position] : self._offsets[position + 1]].decode().partition(" ")
                )
                yield utterance, text
