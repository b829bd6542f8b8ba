"""Score files, `enrol test score` per line: written whole or not at all, and matched with a trial list."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from audiossl.files import whole_file
from audiossl.verification._columns import Numbering, read_columns

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.verification.trials import Trials

_SHAPE = "enrol test score"
_BLOCK = 1 << 16
_LARGEST = 1e30  # squares, sums and the range of any number of scores stay far from the end of float64


@dataclass(frozen=True)
class Scores:
    """What a score file holds.

    names: every utterance once. enrol, test: (row,) int32, indices into `names`. values: (row,) float64.
    """

    path: Path
    names: list[str]
    enrol: np.ndarray
    test: np.ndarray
    values: np.ndarray


def write_scores(path: Path, trials: Trials, values: np.ndarray) -> None:
    """Write one line per trial, in their order, atomically; nine digits bring every float32 back. values: (trial,)."""
    assert len(values) == len(trials)
    name = trials.names.__getitem__
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(trials), _BLOCK):
            block = slice(start, start + _BLOCK)
            columns = map(name, trials.enrol[block].tolist()), map(name, trials.test[block].tolist())
            file.writelines(map("{} {} {:.9g}\n".format, *columns, values[block].tolist()))


def read_scores(path: Path) -> Scores:
    """Read a score file, whose lines may have further columns, such as WeSpeaker's labels.

    ValueError names file and line of what is no finite score, and of one beyond 1e30.
    """
    numbering, enrol, test, values = Numbering(), [], [], []
    for first, columns in read_columns(path, 3, _SHAPE, further=True):
        enrol.append(numbering.numbers(columns[0]))
        test.append(numbering.numbers(columns[1]))
        values.append(_numbers(path, first, columns[2]))
    sides = np.concatenate(enrol), np.concatenate(test)
    return Scores(path, numbering.names(path, sides), *sides, np.concatenate(values))


def scores_of(trials: Trials, scores: Scores) -> np.ndarray:
    """(trial,) float64, the score of each trial, whatever the order of the file; rows of other pairs are left aside.

    ValueError where a trial has no score, and where a pair has two that differ.
    """
    count = len(trials.names)
    wanted = trials.enrol.astype(np.int64) * count + trials.test
    number = dict(zip(trials.names, range(count), strict=True))
    known = np.fromiter(map(number.get, scores.names, repeat(-1)), np.int64, len(scores.names))
    enrol, test = known[scores.enrol], known[scores.test]
    pairs = np.where((enrol >= 0) & (test >= 0), enrol * count + test, -1)
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], scores.values[order]
    clash = (pairs[1:] == pairs[:-1]) & (values[1:] != values[:-1]) & (pairs[1:] >= 0)
    if clash.any():
        row = int(order[int(np.argmax(clash)) + 1])
        pair = f"{scores.names[scores.enrol[row]]} {scores.names[scores.test[row]]}"
        raise ValueError(f"{scores.path}:{row + 1}: {pair!r} has another score further up; remove one of the lines")
    found = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    absent = pairs[found] != wanted
    if absent.any():
        trial = int(np.argmax(absent))
        pair = f"{trials.names[trials.enrol[trial]]} {trials.names[trials.test[trial]]}"
        others = int(absent.sum()) - 1
        lack = f"and {others} further trials have no score" if others else "has no score"
        turned = int(np.isin(trials.test.astype(np.int64)[absent] * count + trials.enrol[absent], pairs).sum())
        cure = f", which holds {turned} as `test enrol`; exchange the columns" if turned else "; score them"
        raise ValueError(
            f"{trials.place(trial)}: {pair!r} {lack} in {scores.path}{cure}, or give the list that was scored"
        )
    matched: np.ndarray = values[found]
    return matched


def _numbers(path: Path, first: int, words: list[bytes]) -> np.ndarray:
    try:
        values = None if b"_" in b"".join(words) else np.fromiter(map(float, words), np.float64, len(words))
    except ValueError:
        values = None
    if values is None:
        place = next(index for index, word in enumerate(words) if not _is_number(word))
    else:
        usable = np.abs(values) <= _LARGEST
        if usable.all():
            return values
        place = int(np.argmin(usable))
        if np.isfinite(values[place]):
            shown = words[place].decode(errors="replace")
            raise ValueError(f"{path}:{first + place}: the score {shown} is beyond {_LARGEST:g}; scale all scores down")
    shown = words[place].decode(errors="replace")
    raise ValueError(f"{path}:{first + place}: {shown!r} is no finite score; write `{_SHAPE}`")


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return b"_" not in word  # which Python takes between digits
