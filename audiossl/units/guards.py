"""Checks that stop a run before weeks of training on labels that mean nothing.

Each is a fault that has cost somebody a long run: labels at another rate than the model was told, an empty codebook, train
and dev labels from two codebooks. Each ends in one ValueError that says which file and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.alignments import labels_fit
from audiossl.units.labels import IMPORTED, labels_path, read_card, read_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audiossl.data.manifest import Manifest

UNUSED_LIMIT = 0.2
"""Share of codes that no label uses."""

LABELS_PER_CODE = 100
"""With fewer labels than this per code, unused codes say nothing."""

CONSTANT_LIMIT = 0.1
"""Share of utterances with no label, or one label throughout."""

CONSTANT_LABELS = 10
"""An utterance of fewer labels may be constant."""


class LabelGuard:
    """Takes labels a batch at a time and judges them at the end; holds counts only.

    place: the file that errors name. rate: labels per second. size: codes of the codebook. feature: what they are units of, see `check_usage`.
    """

    def __init__(self, place: str, *, rate: float, size: int, feature: str = "", log: Callable[[str], None]) -> None:
        self._place, self._rate, self._feature, self._log = place, rate, feature, log
        self.counts = np.zeros(size, dtype=np.int64)
        self.utterances = 0
        self._empty_or_constant = 0
        self._example = ""

    def add(self, ids: Sequence[str], labels: np.ndarray, lengths: np.ndarray, durations: np.ndarray) -> None:
        """labels: (label,) of all utterances, one after the other; lengths: (utterance,) labels of each; durations: seconds."""
        check_lengths(self._place, ids, lengths, durations, rate=self._rate, feature=self._feature)
        self.counts += np.bincount(labels, minlength=len(self.counts))
        flat = empty_or_constant(labels, lengths)
        if flat.any() and not self._example:
            self._example = ids[int(flat.argmax())]
        self._empty_or_constant += int(flat.sum())
        self.utterances += len(lengths)

    def finish(self) -> None:
        """ValueError where the labels as a whole are no use; warnings through `log` where they are doubtful."""
        check_usage(self.counts, self._place, feature=self._feature, log=self._log)
        if not self._empty_or_constant:
            return
        what = f"{self._empty_or_constant} of {self.utterances} utterances have no label or only one (such as {self._example!r})"
        if self._empty_or_constant > CONSTANT_LIMIT * self.utterances:
            raise ValueError(f"{self._place}: {what}; leave out silent recordings or fit another codebook")
        self._log(f"warning: {self._place}: {what}")


def empty_or_constant(labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Tell which utterances have no label, or at least ten that are all the same. Returns (utterance,) bool."""
    flat: np.ndarray = lengths == 0
    starts = (np.cumsum(lengths) - lengths)[~flat]
    if len(starts):
        same = np.minimum.reduceat(labels, starts) == np.maximum.reduceat(labels, starts)
        flat[~flat] = same & (lengths[~flat] >= CONSTANT_LABELS)
    return flat


def check_lengths(
    place: str, ids: Sequence[str], lengths: np.ndarray, durations: np.ndarray, *, rate: float, feature: str = ""
) -> None:
    """ValueError for the first utterance whose number of labels is not its duration (seconds) times `rate` (Hz). feature: what the cure depends on."""
    wrong = ~labels_fit(lengths, durations, rate)
    if not wrong.any():
        return
    first = int(wrong.argmax())
    raise ValueError(
        f"{place}: {ids[first]!r} has {lengths[first]} labels; {durations[first]:.3f} s at {rate:g} Hz should give about "
        f"{durations[first] * rate:.0f}; check {_maker(feature)} again"
    )


def _maker(feature: str) -> str:
    """What to look at and to run where labels have another rate than is stated."""
    if feature == IMPORTED:
        return "--rate and utt2dur, then run `audiossl units import`"
    return "the rate in its .json and utt2dur, then run `audiossl units apply`"


def check_usage(counts: np.ndarray, place: str, *, feature: str = "", log: Callable[[str], None]) -> None:
    """ValueError where all labels are one code, or more than a fifth of the codes have none; below that, a warning.

    counts: (code,) labels per code. Unused codes are judged only where there are 100 labels per code. feature: of "codes", which are as unevenly used
    as words, and of imported ones any number may be missing.
    """
    total, used = int(counts.sum()), int((counts > 0).sum())
    if used <= 1:
        only = f"all {total} labels are {int(counts.argmax())}" if total else "there is no label at all"
        cure = "check the codes" if feature == IMPORTED else "check the audio, then fit another codebook"
        raise ValueError(f"{place}: {only}; a model would learn nothing: {cure}")
    unused = len(counts) - used
    if not unused or total < LABELS_PER_CODE * len(counts):
        return
    what = f"{unused} of {len(counts)} codes are never used"
    if unused > UNUSED_LIMIT * len(counts) and feature not in {"codes", IMPORTED}:
        raise ValueError(f"{place}: {what}; fit a codebook of fewer clusters or on more data")
    log(f"warning: {place}: {what}")


def check_same_codebook(train: Manifest, dev: Manifest, name: str) -> None:
    """ValueError where the labels `name` of two data directories come from different codebooks.

    Two k-means of the same data number their clusters differently: the dev loss would be that of a permuted codebook.
    """
    ours, theirs = read_card(train.path, name), read_card(dev.path, name)
    if ours.codebook_hash != theirs.codebook_hash:
        verb = (
            "import` on both with one --codec" if theirs.feature == IMPORTED else "apply` on both with one --codebook"
        )
        raise ValueError(
            f"{labels_path(dev.path, name)}: made by codebook {theirs.codebook_hash[:12]}, but those of {train.path} by "
            f"{ours.codebook_hash[:12]}; run `audiossl units {verb}"
        )


def check_units(manifest: Manifest, name: str, *, log: Callable[[str], None]) -> np.ndarray:
    """Run every check over the labels `name` of a data directory, in one pass. Returns (code,) labels per code."""
    path, card = labels_path(manifest.path, name), read_card(manifest.path, name)
    guard = LabelGuard(str(path), rate=card.rate, size=card.codebook_size, feature=card.feature, log=log)
    ids, durations = iter(manifest.ids), iter(manifest.durations)
    current, duration = next(ids, None), next(durations, 0.0)
    for line, utterance, labels in read_labels(manifest.path, name, codebook_size=card.codebook_size):
        while current is not None and current < utterance:  # left out as unreadable when the labels were made
            current, duration = next(ids, None), next(durations, 0.0)
        if current != utterance:
            raise ValueError(
                f"{path}:{line}: {utterance!r} is not in {manifest.path} or out of order; run `audiossl data fix`"
            )
        guard.add([utterance], labels, np.array([len(labels)]), np.array([duration]))
    guard.finish()
    if guard.utterances + card.left_out < len(manifest):
        raise ValueError(
            f"{path}: labels of {guard.utterances} utterances, but {manifest.path} has {len(manifest)}; "
            "run `audiossl units apply` again"
        )
    return guard.counts
