"""What a head says of a data directory while batches of it go by, and the files beside a score that say it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

from audiossl.files import locked, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from audiossl.contracts import EncoderOutput
    from audiossl.data.manifest import Manifest
    from audiossl.superb.heads import Head

NAMES = tuple(
    f"test.{choice}{kind}"
    for choice, kind in product(("", "official.", "lm."), ("predictions", "hyp", "ref", "scores", "rttm"))
)
"""Files that may stand beside a score."""


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
        self._said: dict[str, Any] = {}
        self._values: dict[str, float] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0

    def take(self, utterances: Sequence[str], output: EncoderOutput) -> None:
        """Ask the head about a batch."""
        self._kept |= zip(utterances, self._head.predict(output), strict=True)
        if self._head.task.averages:
            values, said = self._head.task.examine(self._kept, self._manifest)
            for name, value in values.items():
                self._sums[name] += value * len(self._kept)
            self._said |= said
            self._count += len(self._kept)
            self._kept = {}

    def values(self) -> dict[str, float]:
        """Return the score by metric; ValueError where no recording could be used."""
        if not self._head.task.averages:
            if not self._values:
                values, said = self._head.task.examine(self._joined(self._kept), self._manifest)
                self._values, self._said, self._kept = values, dict(said), {}
            return self._values
        if not self._count:
            raise ValueError(f"{self._manifest.path}: no recording can be used; mend the data")
        return {name: total / self._count for name, total in self._sums.items()}

    def lines(self, settings: Mapping[str, Any]) -> dict[str, Iterable[str]]:
        """What the task's `answers` gives, once `values` were asked for. settings: those that dev chose."""
        return self._head.task.answers(self._said, self._manifest, settings)


@contextmanager
def beside_score(folder: Path, answers: Mapping[str, Iterable[str]]) -> Iterator[None]:
    """Write the files of a score whole, around a block that writes the score: those of an earlier one go before it, these come after it.

    answers: lines by the end of a name. Several processes may do so at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent), ExitStack() as files:  # the score locks the folder itself
        for name, lines in answers.items():
            write_lines(files.enter_context(whole_file(folder / f"test.{name}")), lines)
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
        yield


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_lines(path: Path) -> Iterator[str]:
    """Yield what `write_lines` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from (line.removesuffix("\n") for line in file)


def of_folds(folds: Iterable[tuple[str, Mapping[str, Iterable[str]]]]) -> dict[str, Iterable[str]]:
    """Lines of several folds one after the other, each ended by the name of its fold; one fold has none. folds: names, and lines by the end of a file's name."""
    found: dict[str, list[tuple[str, Iterable[str]]]] = defaultdict(list)
    for fold, answers in folds:
        for name, lines in answers.items():
            found[name].append(("_".join(fold.split()), lines))
    return {
        name: (f"{line} {fold}" if fold else line for fold, lines in parts for line in lines)
        for name, parts in found.items()
    }
