"""Phones, and faults of what is aligned with the audio - `units/<name>`, `phones.ctm`, `utt2turns` - and of `trials`; lines are streamed."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import OVERSHOOT
from audiossl.data.lines import Fault, Phone, parse_phone, parse_trial, says_target, scan
from audiossl.data.turns import parse_turns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

DURATION_TOLERANCE = 0.05
"""Seconds by which an alignment may be longer than the audio, and `utt2dur` shorter: both are often rounded to hundredths or frames."""

LABEL_TOLERANCE = 3.9
"""Labels that may be missing or too many: a 29 ms window at a 10 ms hop ends up to 2.9 labels early, and durations that are
too long by what reading forgives add one."""

LABEL_SHARE = 0.01
"""The same as a share of the utterance, where that is more: durations of compressed audio are not exact."""

AGAIN = "run `audiossl units apply` again"


def duration_fits(listed: float, true: float) -> bool:
    """Whether `utt2dur` may say `listed` of an utterance of `true` seconds: what reads up to there must find sound."""
    return -DURATION_TOLERANCE <= listed - true <= OVERSHOOT + 1e-6


def labels_fit(count: Any, duration: Any, rate: float) -> Any:
    """Tell whether so many labels may be those of `duration` seconds at `rate` Hz; numbers, or arrays of them alike."""
    expected = rate * duration
    return np.abs(count - expected) <= np.maximum(LABEL_TOLERANCE, LABEL_SHARE * expected) + 1e-6


def parse_labels(text: str) -> NDArray[np.int64]:
    """Labels of a line of `units/<name>`: (label,); ValueError where one is no whole number."""
    if text.strip() and not text.encode().translate(None, b"0123456789 "):
        return np.fromstring(text, np.int64, sep=" ")  # in a fifth of the time, but it takes other text for numbers too
    return np.array(list(map(int, text.split())), dtype=np.int64)


class UnitsCheck:
    """Checks the labels of a units file against its `.json`; `fault` says what is wrong with the card itself, "" if nothing."""

    def __init__(self, path: Path) -> None:
        self.card_path = path.with_name(path.name + ".json")
        self.rate, self.size, self.fault = 0.0, 0, ""
        try:
            card: Any = json.loads(self.card_path.read_text(encoding="utf-8"))
            self.rate, self.size = float(card["rate"]), int(card["codebook_size"])
        except FileNotFoundError:
            self.fault = "missing: rate and codebook of the units are not known"
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.fault = f"no rate and codebook_size can be read ({type(error).__name__}: {error})"
        else:
            if not (self.rate > 0.0 and self.size > 0):
                self.fault = f"a rate of {self.rate:g} Hz and {self.size} codes"

    def labels(self, value: str, duration: float | None) -> str:
        """What is wrong with the labels of an utterance of `duration` seconds (None: not known), "" if nothing."""
        try:
            labels = [int(label) for label in value.split()]
        except ValueError as error:
            return f"not all labels are whole numbers ({error})"
        if not labels:
            return "no label"
        if self.fault:
            return ""
        if min(labels) < 0 or max(labels) >= self.size:
            odd = min(labels) if min(labels) < 0 else max(labels)
            return f"label {odd}, where the codebook has 0 to {self.size - 1}"
        if duration is not None and not labels_fit(len(labels), duration, self.rate):
            about = f"{kaldi.seconds(duration)} s at {self.rate:g} Hz give about {self.rate * duration:.0f}"
            return f"{len(labels)} labels, where {about}"
        return ""


def unit_faults(path: Path, durations: Mapping[str, float | None]) -> Iterator[Fault]:
    """Yield the faults of the labels of a units file and of its card; not those of its order and ids."""
    check = UnitsCheck(path)
    if check.fault:
        yield Fault(check.card_path, 0, check.fault, AGAIN)
    for line in scan(path):
        wrong = "" if line.fault else check.labels(line.value, durations.get(line.key))
        if wrong:
            yield Fault(path, line.number, f"{line.key!r}: {wrong}", AGAIN)


def read_phones(path: Path) -> Iterator[tuple[str, Phone]]:
    """Yield (utterance, phone) of each line of `phones.ctm`; ValueError names file and line of what cannot be read."""
    for number, utterance, value in kaldi.read_table(path):
        phone = parse_phone(value)
        if phone is None:
            raise ValueError(f"{path}:{number}: not `utterance 1 start duration phone`; run `audiossl data validate`")
        yield utterance, phone


def phone_faults(path: Path, durations: Mapping[str, float | None], fix: str) -> Iterator[Fault]:
    """Yield the faults of `phones.ctm`, which may leave utterances out. durations: seconds by utterance; fix: the usual cure."""
    last, last_start = "", 0.0
    for line in scan(path):
        if line.fault or line.key not in durations:
            yield Fault(path, line.number, line.fault or f"unknown utterance {line.key!r}", fix)
            continue
        if line.key < last:
            yield Fault(path, line.number, f"{line.key!r} comes after {last!r}: not in C order", fix)
        phone = parse_phone(line.value)
        if phone is None:
            what = f"{line.key!r}: {line.value!r} is not `1 start duration phone`, in seconds"
            yield Fault(path, line.number, what, "align again or correct the line")
            last = line.key
            continue
        if line.key == last and phone.start < last_start:
            yield Fault(path, line.number, f"{line.key!r}: starts at {phone.start:g} s, before the line above", fix)
        end, length = phone.start + phone.duration, durations[line.key]
        if length is not None and end > length + DURATION_TOLERANCE:
            what = f"{line.key!r}: {phone.phone} ends at {end:g} s, the utterance at {kaldi.seconds(length)} s"
            yield Fault(path, line.number, what, "align again or correct the line")
        last, last_start = line.key, phone.start


def turn_faults(path: Path, durations: Mapping[str, float | None]) -> Iterator[Fault]:
    """Yield the faults of the turns in `utt2turns`; not those of its order and ids."""
    for line in scan(path):
        if line.fault or not line.value:
            continue
        turns, length = parse_turns(line.value), durations.get(line.key)
        if turns is None:
            what = f"{line.key!r}: {line.value[:40]!r} is not `speaker start end` once or more, in seconds"
            yield Fault(path, line.number, what, "correct the line")
        elif length is not None and (end := max(turn.end for turn in turns)) > length + DURATION_TOLERANCE:
            what = f"{line.key!r}: someone speaks until {end:g} s, where it ends at {kaldi.seconds(length)} s"
            yield Fault(path, line.number, what, "correct the line")


def trial_faults(path: Path, utterances: Collection[str], fix: str) -> Iterator[Fault]:
    """Yield the faults of `trials`, each line in either of two formats; their order is free. Memory: 17 bytes per trial."""
    numbers = {utterance: number for number, utterance in enumerate(utterances)}
    pairs, lines, targets = array("q"), array("q"), array("b")
    for line in scan(path):
        pair = None if line.fault else parse_trial(line.key, line.value)
        if pair is None:
            wrong = line.fault or "not `enrol test target|nontarget` or `1|0 enrol test`"
            yield Fault(path, line.number, wrong, fix)
            continue
        for utterance in dict.fromkeys(pair):
            if utterance not in numbers:
                yield Fault(path, line.number, f"unknown utterance {utterance!r}", fix)
        if all(utterance in numbers for utterance in pair):
            low, high = sorted(numbers[utterance] for utterance in pair)  # who spoke both does not depend on the order
            pairs.append(low * len(numbers) + high)
            lines.append(line.number)
            targets.append(says_target(line.key, line.value))
    names = list(numbers)
    for both, number, other in _contradictions(*map(np.asarray, (pairs, lines, targets))):
        low, high = divmod(both, len(numbers))
        what = f"{names[low]!r} and {names[high]!r} are one speaker here or in line {other}, two in the other"
        yield Fault(path, number, what, "remove the wrong one of the two lines")


def _contradictions(pairs: np.ndarray, lines: np.ndarray, targets: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (pair, line, first line) of each trial that is not what the first one of its pair is, by line. All: (trial,)."""
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    first = np.repeat(order[starts], np.diff(starts, append=len(order)))
    odd = targets[order] != targets[first]
    for place, other in sorted(zip(order[odd].tolist(), first[odd].tolist(), strict=True)):
        yield int(pairs[place]), int(lines[place]), int(lines[other])
