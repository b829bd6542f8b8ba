"""Where errors of recognition are: aligned utterances added up by speaker and by what was taken for what."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from audiossl.metrics._edits import Edits, Pair

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Group:
    """Errors of a group of utterances. wrong: how many of these have one."""

    edits: Edits = field(default_factory=Edits)
    utterances: int = 0
    wrong: int = 0

    def add(self, edits: Edits) -> None:
        """Add an utterance."""
        self.edits += edits
        self.utterances += 1
        self.wrong += edits.errors > 0


class ErrorTally:
    """Errors added up one utterance at a time: of all, of each speaker, and of each pair of units that are not the same."""

    def __init__(self) -> None:
        self.overall = Group()
        self._speakers: dict[str, Group] = {}
        self._confusions: Counter[Pair] = Counter()

    def add(self, pairs: Sequence[Pair], speaker: str | None = None) -> Edits:
        """Add an utterance, as `_edits.align` gives it, and return its counts. speaker: None where it is not known."""
        edits = Edits.of(pairs)
        self.overall.add(edits)
        if speaker is not None:
            self._speakers.setdefault(speaker, Group()).add(edits)
        self._confusions.update((wanted, predicted) for wanted, predicted in pairs if wanted != predicted)
        return edits

    def speakers(self) -> list[tuple[str, Group]]:
        """Name and errors of each speaker, the highest rate first, speakers of one rate by name; errors over empty references count as an infinite rate."""
        return sorted(self._speakers.items(), key=lambda item: (-_badness(item[1].edits), item[0]))

    def substitutions(self) -> list[tuple[str, str, int]]:
        """(unit of the reference, unit predicted, times), the most frequent first, those as frequent by their names."""
        found = ((a, b, n) for (a, b), n in self._confusions.items() if a is not None and b is not None)
        return sorted(found, key=lambda row: (-row[2], row[0], row[1]))

    def deletions(self) -> list[tuple[str, int]]:
        """(unit of the reference, times it was left out), in the order of `substitutions`."""
        found = ((a, n) for (a, b), n in self._confusions.items() if a is not None and b is None)
        return sorted(found, key=lambda row: (-row[1], row[0]))

    def insertions(self) -> list[tuple[str, int]]:
        """(unit predicted, times there was none in the reference), in the order of `substitutions`."""
        found = ((b, n) for (a, b), n in self._confusions.items() if a is None and b is not None)
        return sorted(found, key=lambda row: (-row[1], row[0]))


def _badness(edits: Edits) -> float:
    if edits.rate is None:
        return math.inf if edits.errors else 0.0
    return edits.rate
