"""Trial lists as integer arrays: who is compared with whom, and whether they are the same speaker."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.kaldi import read_table
from audiossl.verification._columns import Numbering, read_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SHAPE = "enrol test target|nontarget` or `1|0 enrol test"
_WORDS = {b"target": 1, b"nontarget": 0}
_LABELS = _WORDS | {b"1": 1, b"0": 0}


@dataclass(frozen=True)
class Trials:
    """Trials in the order of their file.

    names: every utterance once, enrolment and test alike. enrol, test: (trial,) int32, indices into `names`. labels: (trial,) bool,
    True for the same speaker. models: those of `names` that are means of several utterances, and which; see `read_models`.
    """

    path: Path
    names: list[str]
    enrol: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, index: int) -> str:
        """Say where trial `index` stands, for messages."""
        return f"{self.path}:{index + 1}"

    @cached_property
    def utterances(self) -> list[str]:
        """Every utterance once that has a part in the trials: `names`, in the place of a model those that it is the mean of."""
        if not self.models:
            return self.names
        return list(dict.fromkeys(part for name in self.names for part in self.models.get(name, (name,))))

    @cached_property
    def own(self) -> np.ndarray:
        """(trial,) bool, where an utterance is compared with itself or with a model that it is part of."""
        number = {name: index for index, name in enumerate(self.names)}
        parts = [
            number[model] * len(number) + number[part]
            for model in number.keys() & self.models.keys()
            for part in self.models[model]
            if part in number
        ]
        own = (self.enrol == self.test) | np.isin(self.enrol.astype(np.int64) * len(number) + self.test, parts)
        return np.asarray(own)

    def require_both_classes(self) -> None:
        """ValueError where all trials are targets, or none is."""
        if self.labels.all() or not self.labels.any():
            targets = int(self.labels.sum())
            raise ValueError(
                f"{self.path}: {targets} target and {len(self) - targets} non-target trials: error rates need both; add trials of the other class"
            )

    @property
    def pairs(self) -> np.ndarray:
        """(trial,) int64, the same number for the same two utterances, whichever is the enrolment."""
        sides = self.enrol.astype(np.int64), self.test.astype(np.int64)
        return np.asarray(np.minimum(*sides) * len(self.names) + np.maximum(*sides))


def read_models(path: Path) -> dict[str, list[str]]:
    """Read lines `model utterance utterance ...`; ValueError names the line of a model that is listed twice or has no utterance."""
    models: dict[str, list[str]] = {}
    for number, model, words in read_table(path):
        if model in models or not words:
            raise ValueError(
                f"{path}:{number}: model {model!r}: comes twice, or without utterances; write `model utterance utterance ...`"
            )
        models[model] = words.split()
    if not models:
        raise ValueError(f"{path}: is empty; give a file of `model utterance utterance ...` lines")
    return models


def read_trials(path: Path, models: Mapping[str, Sequence[str]] | None = None) -> Trials:
    """Read a trial list: `enrol test label` (Kaldi) or `label enrol test` (VoxCeleb), as the first line shows for all.

    A label is target, nontarget, 1 or 0. A pair may come twice and counts twice, and an utterance may be the target of itself. ValueError
    names file and line of anything else, a list that is empty, and both lines that say of one pair, in whichever order, that it is and
    that it is not of one speaker. models: what `Trials` keeps.
    """
    numbering, enrol, test, labels = Numbering(), [], [], []
    label_column = -1
    for first, columns in read_columns(path, 3, _SHAPE):
        if label_column < 0:
            label_column = _label_column(path, tuple(column[0] for column in columns))
        words = columns.pop(label_column)
        found = np.fromiter(map(_LABELS.get, words, repeat(-1)), np.int8, len(words))
        if (found < 0).any():
            place = int(np.argmax(found < 0))
            shown = words[place].decode(errors="replace")
            raise ValueError(
                f"{path}:{first + place}: {shown!r} is no label; write `{_SHAPE}`, the label where the first line has it"
            )
        labels.append(found.astype(np.bool_))
        enrol.append(numbering.numbers(columns[0]))
        test.append(numbering.numbers(columns[1]))
    sides = np.concatenate(enrol), np.concatenate(test)
    trials = Trials(path, numbering.names(path, sides), *sides, np.concatenate(labels), models or {})
    _refuse_contradictions(trials)
    return trials


def _refuse_contradictions(trials: Trials) -> None:
    itself = (trials.enrol == trials.test) & ~trials.labels
    if itself.any():
        trial = int(np.argmax(itself))
        raise ValueError(
            f"{trials.place(trial)}: {trials.names[trials.enrol[trial]]!r} is a non-target of itself; remove the line"
        )
    pairs = trials.pairs
    said = np.sort(2 * pairs + trials.labels)
    clash = (said[1:] == said[:-1] + 1) & (said[1:] % 2 == 1)
    if clash.any():
        about = np.flatnonzero(np.isin(pairs, said[1:][clash] // 2))
        first = int(about[0])
        second = int(about[(pairs[about] == pairs[first]) & (trials.labels[about] != trials.labels[first])][0])
        names = f"{trials.names[trials.enrol[first]]} {trials.names[trials.test[first]]}"
        words = ("nontarget", "target")
        raise ValueError(
            f"{trials.place(second)}: {names!r} is {words[int(trials.labels[second])]}, and {words[int(trials.labels[first])]} in "
            f"line {first + 1}; remove one of the lines"
        )


def _label_column(path: Path, words: tuple[bytes, ...]) -> int:
    for known in (_WORDS, _LABELS):  # an utterance may be called 1, hardly `target`
        columns = [column for column in (2, 0) if words[column] in known]
        if len(columns) == 1:
            return columns[0]
        if columns:
            raise ValueError(
                f"{path}:1: a label stands first and last; put a line first that has only one, or write target|nontarget"
            )
    shown = b" ".join(words).decode(errors="replace")
    raise ValueError(f"{path}:1: {shown!r} has no label; write `{_SHAPE}`")
