"""Embeddings on disk: a memory-mapped float32 matrix, `NAME.npy`, and the utterance of each row, `NAME.ids`.

A path ending in `.npy` is that matrix; any other is a folder with `embeddings.npy` in it. The matrix is (utterance, dim), or
(utterance, crop, dim) where every utterance was cut into the same number of crops. A Kaldi `utt2spk` in the same folder says whose they are.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Self

import numpy as np

from audiossl.data.kaldi import UTT2SPK
from audiossl.files import whole_set
from audiossl.verification._columns import Numbering, read_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

MATRIX = "embeddings.npy"
_BLOCK_BYTES = 1 << 18  # with what is computed from it, it stays in the cache, and the C library uses its memory again


class EmbeddingWriter:
    """Writes embeddings as they come; the files appear when the block ends without an error.

    Example: `with EmbeddingWriter(folder, 192) as writer: writer.add(batch_ids, batch_embeddings)`.
    """

    def __init__(self, path: Path, dim: int, *, crops: int | None = None, beside: Sequence[str] = ()) -> None:
        """crops: per utterance; None for a matrix without that dimension. beside: files of the same folder that go with the matrix.

        These are written to `self.beside[name]` and appear with it.
        """
        self._matrix, self._ids = _places(path)
        self._beside = [self._matrix.with_name(name) for name in beside]
        self._row = (dim,) if crops is None else (crops, dim)
        self._written: dict[str, None] = {}

    def __enter__(self) -> Self:
        self._matrix.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # The ids come last: where they stand, the matrix is theirs.
            places, [ids] = stack.enter_context(whole_set([self._matrix, *self._beside], [self._ids]))
            matrix, *beside = places
            self.beside = {path.name: place for path, place in zip(self._beside, beside, strict=True)}
            self._file = stack.enter_context(matrix.open("wb"))
            self._file.write(_header((0, *self._row)))
            stack.push(partial(self._finish, ids))
            self._stack = stack.pop_all()
        return self

    def add(self, ids: Sequence[str], embeddings: np.ndarray) -> None:
        """Append rows. embeddings: (utterance, dim) or (utterance, crop, dim), as the writer was made for.

        ValueError names an utterance that comes twice, has white space in its id, or whose embedding is not finite.
        """
        rows = np.ascontiguousarray(embeddings, dtype="<f4")
        if rows.shape != (len(ids), *self._row):
            raise ValueError(
                f"{self._matrix}: embeddings {rows.shape} for {len(ids)} utterances of {self._row}; give one row for each"
            )
        finite = np.isfinite(rows.reshape(len(ids), -1)).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{self._matrix}: the embedding of {ids[int(np.argmin(finite))]} holds nan or infinity; "
                "check this recording and the encoder"
            )
        for name in ids:
            if name in self._written or len(name.split()) != 1:
                fault = "comes twice" if name in self._written else "is empty or has white space"
                raise ValueError(f"{self._ids}: the id {name!r} {fault}; give every utterance an id of its own")
            self._written[name] = None
        self._file.write(rows.tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(self, ids: Path, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(_header((len(self._written), *self._row)))
            ids.write_text("".join(f"{name}\n" for name in self._written), encoding="utf-8", newline="\n")


class Embeddings:
    """Embeddings of utterances, of which only the ids are held.

    matrix: (utterance, dim) or (utterance, crop, dim) float32, memory-mapped. ids: of the rows, in their order.
    """

    def __init__(self, path: Path, matrix: np.ndarray, ids: list[str]) -> None:
        self.path, self.matrix, self.ids = path, matrix, ids
        self._rows: dict[str, int] = dict(zip(ids, range(len(ids)), strict=True))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the files, or read float64 and float16 as float32; ValueError where one is missing, damaged or not the other's."""
        place, ids_place = _places(path)
        cure = "write it with `audiossl embed`, or save float32 with numpy.save and one id per line beside it"
        try:
            matrix = np.load(place, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(f"{place}: no such file; {cure}") from None
        except (ValueError, EOFError) as error:
            raise ValueError(f"{place}: is no NumPy array ({error}); {cure}") from None
        if matrix.dtype.kind != "f" or matrix.ndim not in {2, 3} or not matrix.size:
            raise ValueError(
                f"{place}: {matrix.dtype} of shape {matrix.shape}, not floats of (utterance, dim) or (utterance, crop, dim); {cure}"
            )
        numbering = Numbering()
        rows = [numbering.numbers(words) for _, [words] in read_columns(ids_place, 1, "id")]
        numbers = np.concatenate(rows)
        double = numbers != np.arange(len(numbers))  # a new name gets the next number
        if double.any():
            raise ValueError(
                f"{ids_place}:{int(np.argmax(double)) + 1}: this id stands further up; give every row its own"
            )
        if len(numbers) != len(matrix):
            raise ValueError(f"{ids_place}: {len(numbers)} ids for {len(matrix)} rows of {place.name}; {cure}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is said where it is compared
            # float32 as a plain view of the mapped file: `np.memmap` itself is slow to index.
            matrix = np.asarray(matrix, dtype=np.float32)
        return cls(place, matrix, numbering.names(ids_place, [numbers]))

    def with_models(self, models: Mapping[str, Sequence[str]], path: Path) -> Self:
        """Return these, in memory, and a row for each model: the mean of its utterances' embeddings, of crops the mean of each.

        A model takes the place of an utterance of its name. models: as `read_models` reads them from `path`; ValueError names the line of one whose
        utterance has no embedding.
        """
        means = []
        for number, (model, utterances) in enumerate(models.items(), start=1):
            rows = self.find(utterances)
            if (rows < 0).any():
                raise ValueError(
                    f"{path}:{number}: model {model!r}: {utterances[int(np.argmax(rows < 0))]!r} has no embedding in {self.path}; extract it too"
                )
            means.append(self.matrix[rows].mean(axis=0))
        kept = [row for row, name in enumerate(self.ids) if name not in models]
        matrix = np.concatenate([self.matrix[kept], np.stack(means)])
        return type(self)(self.path, matrix, [*(self.ids[row] for row in kept), *models])

    @property
    def dim(self) -> int:
        """Numbers per embedding."""
        return int(self.matrix.shape[-1])

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, names: Sequence[str]) -> np.ndarray:
        """(name,) int64, the row of each name; -1 where there is none."""
        return np.fromiter(map(self._rows.get, names, repeat(-1)), np.int64, len(names))

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """(name,) int64, the row of each name; ValueError names the first that has none."""
        rows = self.find(names)
        if (rows < 0).any():
            others = f" and {count} others" if (count := int((rows < 0).sum()) - 1) else ""
            raise ValueError(
                f"{self.path}: holds no embedding of {names[int(np.argmax(rows < 0))]!r}{others}; extract them too"
            )
        return rows

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (where, embeddings) of `rows`, or of all, by blocks of a quarter of a megabyte.

        where: the slice of `rows` that it is. embeddings: (row, dim) or (row, crop, dim) float32.
        """
        for where in self.slices(len(self) if rows is None else len(rows)):
            yield where, self.matrix[where] if rows is None else self.matrix.take(rows[where], axis=0)

    def slices(self, count: int) -> list[slice]:
        """Cut `count` rows into blocks of a quarter of a megabyte."""
        step = max(1, _BLOCK_BYTES // self.matrix[0].nbytes)
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def mean(self) -> np.ndarray:
        """(dim,) float64, the mean of all embeddings, crops included; ValueError names the utterance of one that is not finite."""
        total = np.zeros(self.dim)
        for where, block in self.blocks():
            part = block.reshape(-1, self.dim).sum(axis=0, dtype=np.float64)
            if not np.isfinite(part).all():
                finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
                raise ValueError(
                    f"{self.path}: the embedding of {self.ids[where.start + int(np.argmin(finite))]} is not finite; extract it again"
                )
            total += part
        return np.asarray(total / (self.matrix.size // self.dim))

    def digest(self) -> str:
        """SHA-256 of ids and embeddings, wherever they lie."""
        found = hashlib.sha256(f"{self.matrix.shape}\n".encode() + "\n".join(self.ids).encode())
        for _, block in self.blocks():
            found.update(np.ascontiguousarray(block).data)
        return found.hexdigest()

    def norms(self, rows: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
        """(row,) float64, the length of each embedding, of several crops their mean length. mean: (dim,), subtracted first, or None."""
        found = np.empty(len(rows))
        for where, block in self.blocks(rows):
            if mean is not None:
                block = block - mean
            lengths = np.sqrt(np.einsum("...d,...d->...", block, block, dtype=np.float64))
            found[where] = lengths.reshape(len(block), -1).mean(axis=1)
        return found

    def speakers(self) -> tuple[np.ndarray, list[str]]:
        """(utterance,) int32 speaker of each row, and their names; ValueError where `utt2spk` is missing or incomplete."""
        return read_speakers(self.path.parent / UTT2SPK, self.ids)


def read_speakers(path: Path, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(name,) int32, the speaker of each utterance by `utt2spk`, and the speakers' names.

    ValueError where an utterance has no line, and for the second of two lines that say different speakers of it; lines of other utterances are left aside.
    """
    utterances, speakers = Numbering(), Numbering()
    columns = [
        (utterances.numbers(left), speakers.numbers(right))
        for _, (left, right) in read_columns(path, 2, "utterance speaker")
    ]
    keys, values = (np.concatenate(side) for side in zip(*columns, strict=True))
    number = {name: index for index, name in enumerate(utterances.names(path, [keys]))}
    speaker = np.empty(len(number), dtype=np.int32)
    speaker[keys[::-1]] = values[::-1]  # what stands first
    if (clash := speaker[keys] != values).any():
        line = int(np.argmax(clash))
        wrong = utterances.names(path, [keys])[keys[line]]
        raise ValueError(f"{path}:{line + 1}: {wrong!r} has another speaker further up; remove one of the lines")
    rows = np.fromiter(map(number.get, names, repeat(-1)), np.int64, len(names))
    if (rows < 0).any():
        raise ValueError(f"{path}: says no speaker of {names[int(np.argmax(rows < 0))]!r}; add `utterance speaker`")
    used, index = np.unique(speaker[rows], return_inverse=True)
    all_names = speakers.names(path, [values])
    return index.astype(np.int32), [all_names[one] for one in used.tolist()]


def _places(path: Path) -> tuple[Path, Path]:
    matrix = path if path.suffix == ".npy" else path / MATRIX
    return matrix, matrix.with_suffix(".ids")


def _header(shape: tuple[int, ...]) -> bytes:
    """Header of an `.npy` file; NumPy pads it so that its size does not depend on the number of rows."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue()
