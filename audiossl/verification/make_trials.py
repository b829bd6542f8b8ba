"""Make trial lists: all pairs of utterances of a data directory, a balanced random sample of them, or a published list renamed.

A pair is unordered and never of an utterance with itself; the one whose id comes first enrols. Pairs are made by the block and
written as they come, so that a list of any length needs a few megabytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from audiossl.data.kaldi import UTT2SPK
from audiossl.files import whole_file
from audiossl.verification.trials import read_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from audiossl.data.manifest import Manifest

Pairs = tuple[np.ndarray, np.ndarray]
"""Enrolment and test: (pair,) int64 each, utterance numbers."""

_BLOCK = 1 << 20  # pairs
_MOST = 100_000_000  # lines of a list of all pairs: 5 GB
_DRAWS = 1 << 22  # numbers drawn at once


def make_trials(
    manifest: Manifest,
    out: Path,
    *,
    different: str | None = None,
    random: int | None = None,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Write a trial list over a data directory, `enrol test target|nontarget`, and return its numbers of target and non-target trials.

    different: a column such as `utt2keyword`: pairs for which it says the same are left out. random: trials to draw without
    replacement, half of them targets; None writes all pairs. ValueError where there are no such pairs, fewer than asked for, or too many.
    """
    speaker = _numbered(manifest, UTT2SPK)
    value = None if different is None else _numbered(manifest, different)
    target, nontarget = count_pairs(speaker, value)
    if not (target and nontarget):
        what = "two utterances of one speaker" if not target else "utterances of two speakers"
        but = "" if different is None else f" whose {different} differs"
        raise ValueError(f"{manifest.path}: no {what}{but} to compare; give another data directory")
    if random is None:
        if target + nontarget > _MOST:
            raise ValueError(
                f"{manifest.path}: {target + nontarget:,} pairs are more than {_MOST:,}; draw some with --random N"
            )
        blocks = all_pairs(speaker, value)
    else:
        wanted = random // 2, random - random // 2
        if random < 2 or wanted[0] > target or wanted[1] > nontarget:
            most = min(2 * target + 1, 2 * nontarget)
            raise ValueError(
                f"{manifest.path}: {random} trials, half of them targets, cannot be drawn from {target} target and {nontarget} "
                f"non-target pairs; ask for 2 to {most}"
            )
        target, nontarget = wanted
        blocks = iter([random_pairs(speaker, value, random, rng)])
    labelled = ((enrol, test, speaker[enrol] == speaker[test]) for enrol, test in blocks)
    write_trials(out, list(manifest.ids), labelled)
    return target, nontarget


def write_trials(path: Path, names: Sequence[str], blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Write `enrol test target|nontarget` lines, atomically.

    blocks: (enrol, test, label), (trial,) each; indices into `names`, True for the same speaker.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for enrol, test, labels in blocks:
            sides = map(names.__getitem__, enrol.tolist()), map(names.__getitem__, test.tolist())
            words = map(("nontarget", "target").__getitem__, labels.tolist())
            file.writelines(map("{} {} {}\n".format, *sides, words))


def rename_trials(source: Path, out: Path, utterances: Collection[str], name_of: Callable[[str], str]) -> None:
    """Write a published trial list, in either format, with the ids of a data directory, in the same order.

    name_of: word of the list -> id. ValueError names the first trial of which an utterance is not in `utterances`.
    """
    trials = read_trials(source)
    names = [name_of(name) for name in trials.names]
    absent = np.array([name not in utterances for name in names])
    if absent.any():
        trial = int(np.argmax(absent[trials.enrol] | absent[trials.test]))
        side = trials.enrol if absent[trials.enrol[trial]] else trials.test
        raise ValueError(
            f"{trials.place(trial)}: {trials.names[side[trial]]} is not among the recordings, nor are {int(absent.sum()) - 1} "
            "others of this list; unpack the whole corpus, or take the list out"
        )
    write_trials(out, names, [(trials.enrol, trials.test, trials.labels)])


def count_pairs(speaker: np.ndarray, value: np.ndarray | None = None) -> tuple[int, int]:
    """Numbers of target and non-target pairs, of which `value` differs if it is given.

    speaker, value: (utterance,) int64, numbered from 0 without gaps.
    """
    same, every = _pairs_within(speaker), math.comb(len(speaker), 2)
    if value is None:
        return same, every - same
    both = _pairs_within(np.unique(speaker * (value.max() + 1) + value, return_inverse=True)[1])
    return same - both, every - same - (_pairs_within(value) - both)


def all_pairs(speaker: np.ndarray, value: np.ndarray | None = None) -> Iterator[Pairs]:
    """Yield all pairs of which `value` differs, in the order of enrolment, then test, by blocks; see `count_pairs`."""
    count = len(speaker)
    step = max(1, _BLOCK // count)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))[:, None]
        wanted = np.arange(count) > rows  # (row, utterance)
        if value is not None:
            wanted &= value != value[rows]
        enrol, test = np.nonzero(wanted)
        yield enrol + start, test


def random_pairs(speaker: np.ndarray, value: np.ndarray | None, count: int, rng: np.random.Generator) -> Pairs:
    """Draw `count` pairs without replacement, half of them targets, in the order of `all_pairs`; see `count_pairs`.

    Every set of so many target and so many non-target pairs is equally likely.
    """
    target, nontarget = count_pairs(speaker, value)

    def differs(enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.ones(len(enrol), np.bool_) if value is None else value[enrol] != value[test]

    def foreign(enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.asarray(differs(enrol, test) & (speaker[enrol] != speaker[test]))

    drawn = (
        _draw(_Triangles.of(speaker), differs, target, count // 2, rng),
        _draw(_Triangles.of(np.zeros_like(speaker)), foreign, nontarget, count - count // 2, rng),
    )
    enrol, test = (np.concatenate(side) for side in zip(*drawn, strict=True))
    order = np.lexsort((test, enrol))
    return enrol[order], test[order]


@dataclass(frozen=True)
class _Triangles:
    """All pairs within groups, numbered: group after group, in each by the later member, then by the earlier one.

    members: (utterance,), group after group, ascending in each. begins: (group,), where each starts in `members`. ends: (group,), the
    number after its last pair.
    """

    members: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray) -> Self:
        sizes = np.bincount(groups)
        return cls(np.argsort(groups, kind="stable"), np.cumsum(sizes) - sizes, np.cumsum(sizes * (sizes - 1) // 2))

    def pairs(self, numbers: np.ndarray) -> Pairs:
        group = np.searchsorted(self.ends, numbers, side="right")
        place = numbers - np.where(group > 0, self.ends[group - 1], 0)
        later = np.asarray((1.0 + np.sqrt(1.0 + 8.0 * place)) / 2.0, np.int64)
        later -= later * (later - 1) // 2 > place  # the root was rounded
        later += (later + 1) * later // 2 <= place
        earlier = place - later * (later - 1) // 2
        begin = self.begins[group]
        return self.members[begin + earlier], self.members[begin + later]


def _draw(
    triangles: _Triangles,
    allowed: Callable[[np.ndarray, np.ndarray], np.ndarray],
    available: int,
    count: int,
    rng: np.random.Generator,
) -> Pairs:
    """Draw `count` of the `available` pairs that are allowed, each at most once.

    Numbers are drawn with replacement until enough different ones are allowed; the first `count` of these are a sample without.
    """
    total = int(triangles.ends[-1])
    found = np.empty(0, np.int64)
    while len(found) < count:
        tries = math.ceil(1.2 * (count - len(found)) * total / (available - len(found))) + 16
        numbers = rng.integers(total, size=min(tries, _DRAWS))
        numbers = np.concatenate([found, numbers[allowed(*triangles.pairs(numbers))]])
        _, first = np.unique(numbers, return_index=True)
        found = numbers[np.sort(first)[:count]]
    return triangles.pairs(found)


def _pairs_within(groups: np.ndarray) -> int:
    sizes = np.bincount(groups)
    return int((sizes * (sizes - 1) // 2).sum())


def _numbered(manifest: Manifest, column: str) -> np.ndarray:
    """(utterance,) int64, equal where the column says the same."""
    _, numbers = np.unique(np.array(list(manifest.column(column))), return_inverse=True)
    return np.asarray(numbers, np.int64)
