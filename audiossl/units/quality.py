"""How good units are: what they say about the phones beneath them, and how evenly the codes are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.kaldi import PHONES_CTM, read_table
from audiossl.metrics._contingency import contingency
from audiossl.metrics.cluster_purity import cluster_purity
from audiossl.metrics.code_entropy import code_entropy
from audiossl.metrics.phone_purity import phone_purity
from audiossl.metrics.pnmi import pnmi
from audiossl.units.labels import labels_path, read_card, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class CodeUse:
    """How the codes of one table of units are used. entropy: bits; perplexity: 2 ** entropy."""

    codebook_size: int
    active_codes: int
    entropy: float
    perplexity: float
    utterances: int
    labels: int


@dataclass(frozen=True)
class PhoneMatch:
    """What the units say about the phones. frames: labels whose middle lies in a phone; utterances: with both tables."""

    phone_purity: float
    cluster_purity: float
    pnmi: float
    phones: int
    utterances: int
    frames: int


def measure(data: Path, name: str) -> tuple[CodeUse, PhoneMatch | None]:
    """Measure the units `name` of a data directory in one pass; holds counts only.

    Label i stands for the time from i / rate to (i + 1) / rate and is given the phone at its middle; a label in a gap
    between phones is not counted. The second part is None where there is no `phones.ctm`. Both tables must be sorted by
    utterance.
    """
    card = read_card(data, name)
    alignment = data / PHONES_CTM
    joint = _JointCounts(card.codebook_size, card.rate)
    phones = _alignments(alignment) if alignment.is_file() else iter(())
    current = next(phones, None)
    usage = np.zeros(card.codebook_size, dtype=np.int64)
    utterances = 0
    for _, utterance, labels in _in_order(data, name, card.codebook_size):
        usage += np.bincount(labels, minlength=card.codebook_size)
        utterances += 1
        while current is not None and current[0] < utterance:
            current = next(phones, None)
        if current is not None and current[0] == utterance:
            joint.add(labels, *current[1:])
    for _ in phones:  # to the end: an utterance out of order there would have been missed above
        pass
    entropy = code_entropy(usage)
    use = CodeUse(card.codebook_size, int((usage > 0).sum()), entropy, 2**entropy, utterances, int(usage.sum()))
    if not alignment.is_file():
        return use, None
    if not joint.counts.any():
        raise ValueError(
            f"{alignment}: no phone lies under a label of {labels_path(data, name)}; check its utterance names"
        )
    return use, joint.match()


class _JointCounts:
    """Joint counts of phones, numbered as they appear, and units."""

    def __init__(self, size: int, rate: float) -> None:
        self._size, self._rate = size, rate
        self._numbers: dict[str, int] = {}
        self.counts = np.zeros((0, size), dtype=np.int64)
        self.utterances = 0

    def add(self, labels: np.ndarray, starts: np.ndarray, ends: np.ndarray, phones: list[str]) -> None:
        """Count an utterance. labels: (frame,); starts, ends: (phone,) seconds, by time; phones: their names."""
        numbers = np.array([self._numbers.setdefault(phone, len(self._numbers)) for phone in phones])
        missing = len(self._numbers) - len(self.counts)
        if missing:
            self.counts = np.vstack([self.counts, np.zeros((missing, self._size), dtype=np.int64)])
        middles = (np.arange(len(labels)) + 0.5) / self._rate
        at = np.searchsorted(starts, middles, side="right") - 1
        inside = (at >= 0) & (middles < ends[at])
        self.counts += contingency(
            numbers[at[inside]], labels[inside], num_phones=len(self.counts), num_units=self._size
        )
        self.utterances += 1

    def match(self) -> PhoneMatch:
        return PhoneMatch(
            phone_purity(self.counts),
            cluster_purity(self.counts),
            pnmi(self.counts),
            int((self.counts.sum(axis=1) > 0).sum()),
            self.utterances,
            int(self.counts.sum()),
        )


def _in_order(data: Path, name: str, size: int) -> Iterator[tuple[int, str, np.ndarray]]:
    before = ""
    for line, utterance, labels in read_labels(data, name, codebook_size=size):
        if utterance <= before:
            raise ValueError(
                f"{labels_path(data, name)}:{line}: {utterance!r} is not in order; run `audiossl data fix {data}`"
            )
        before = utterance
        yield line, utterance, labels


def _alignments(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[str]]]:
    """Yield (utterance, starts, ends in seconds, phones) of each utterance of a CTM file."""
    before = ""
    for utterance, rows in groupby(_ctm_rows(path), key=lambda row: row[1]):
        group = list(rows)
        starts, durations = np.array([row[2:4] for row in group]).T
        if utterance <= before or (np.diff(starts) < 0).any():
            raise ValueError(
                f"{path}:{group[0][0]}: {utterance!r} is not in order; sort the file by utterance and time"
            )
        before = utterance
        yield utterance, starts, starts + durations, [row[4] for row in group]


def _ctm_rows(path: Path) -> Iterator[tuple[int, str, float, float, str]]:
    """Yield (line number, utterance, start, duration, phone)."""
    for number, utterance, value in read_table(path):
        try:
            _, start, duration, phone = value.split()[:4]
            times = float(start), float(duration)
        except ValueError:
            times = math.nan, math.nan
        if not all(map(math.isfinite, times)):
            raise ValueError(
                f"{path}:{number}: {f'{utterance} {value}'!r}; write `utterance 1 start duration phone`, times in seconds"
            )
        yield number, utterance, *times, phone
