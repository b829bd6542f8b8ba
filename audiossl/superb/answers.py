"""What a head says of a data directory while batches of it go by."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from audiossl.contracts import EncoderOutput
    from audiossl.data.manifest import Manifest
    from audiossl.superb.heads import Head


class Answers:
    """What a head says of a data directory, until it is scored: at the end, or batch by batch where the task `averages`.

    joined: from predictions of what the head was asked about, such as chunks, to those by utterance.
    """

    def __init__(
        self,
        head: Head,
        manifest: Manifest,
        joined: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda predictions: predictions,
    ) -> None:
        self._head, self._manifest, self._joined = head, manifest, joined
        self._kept: dict[str, Any] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0

    def take(self, utterances: Sequence[str], output: EncoderOutput) -> None:
        """Ask the head about a batch."""
        self._kept |= zip(utterances, self._head.predict(output), strict=True)
        if self._head.task.averages:
            for name, value in self._head.task.evaluate(self._kept, self._manifest).items():
                self._sums[name] += value * len(self._kept)
            self._count += len(self._kept)
            self._kept = {}

    def values(self) -> dict[str, float]:
        """Return the score by metric; ValueError where no recording could be used."""
        if not self._head.task.averages:
            return self._head.task.evaluate(self._joined(self._kept), self._manifest)
        if not self._count:
            raise ValueError(f"{self._manifest.path}: no recording can be used; mend the data")
        return {name: total / self._count for name, total in self._sums.items()}
