"""Checks that stop a run before weeks of training on labels that mean nothing.

Each is a fault that has cost somebody a long run: labels at another rate than the model was told, an empty codebook, train
and dev labels from two codebooks. Each ends in one ValueError that says which file and what to do.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.alignments import labels_fit
from audiossl.data.index import cached, signature
from audiossl.data.kaldi import SEGMENTS, UNITS, UTT2DUR, WAV_SCP
from audiossl.units.labels import IMPORTED, card_path, labels_path, read_card, read_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from audiossl.data.manifest import Manifest

UNUSED_LIMIT = 0.2
"""Share of codes that no label uses."""

LABELS_PER_CODE = 100
"""With fewer labels than this per code, unused codes say nothing."""

CONSTANT_LIMIT = 0.1
"""Share of utterances with no label, or one label throughout."""

CONSTANT_LABELS = 10
"""An utterance of fewer labels may be constant."""

_BLOCK = 1024  # utterances that are judged at a time
_LISTINGS = (WAV_SCP, SEGMENTS, UTT2DUR, "shards.json", "index.npy")  # what ids and durations come from
_FACTS = 3  # that are kept before the counts


class LabelGuard:
    """Takes labels a batch at a time and judges them at the end; holds counts only.

    place: the file that errors name. rate: labels per second. size: codes of the codebook. feature: what they are units of, see `check_usage`.
    """

    def __init__(self, place: str, *, rate: float, size: int, feature: str = "", log: Callable[[str], None]) -> None:
        self._place, self._rate, self._feature, self._log = place, rate, feature, log
        self.counts = np.zeros(size, dtype=np.int64)
        self.utterances = 0
        self.flat, self.example = 0, ""  # utterances without or with one label only, and one of them

    def add(self, ids: Sequence[str], labels: np.ndarray, lengths: np.ndarray, durations: np.ndarray) -> None:
        """labels: (label,) of all utterances, one after the other; lengths: (utterance,) labels of each; durations: seconds."""
        check_lengths(self._place, ids, lengths, durations, rate=self._rate, feature=self._feature)
        self.counts += np.bincount(labels, minlength=len(self.counts))
        flat = empty_or_constant(labels, lengths)
        if flat.any() and not self.flat:
            self.example = ids[int(flat.argmax())]
        self.flat += int(flat.sum())
        self.utterances += len(lengths)

    def finish(self) -> None:
        """ValueError where the labels as a whole are no use; warnings through `log` where they are doubtful."""
        check_usage(self.counts, self._place, feature=self._feature, log=self._log)
        if not self.flat:
            return
        what = f"{self.flat} of {self.utterances} utterances have no label or only one (such as {self.example!r})"
        if self.flat > CONSTANT_LIMIT * self.utterances:
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
    """Run every check over the labels `name` of a data directory. Returns (code,) labels per code.

    The labels are read in one pass, whose outcome is kept in the directory's index until a file changes that it depends on.
    """
    path, card = labels_path(manifest.path, name), read_card(manifest.path, name)
    guard = LabelGuard(str(path), rate=card.rate, size=card.codebook_size, feature=card.feature, log=log)
    sources = (path, card_path(manifest.path, name), *(manifest.path / listing for listing in _LISTINGS))
    found = cached(
        manifest.path,
        f"checked/{UNITS}/{name}",
        (len(manifest), *signature(*sources)),
        lambda: _read_through(manifest, name, guard),
    )
    guard.utterances, guard.flat, row = found[:_FACTS].tolist()
    guard.example = manifest.ids[row] if guard.flat else ""
    guard.counts = np.array(found[_FACTS:])
    guard.finish()
    if guard.utterances + card.left_out < len(manifest):
        raise ValueError(
            f"{path}: labels of {guard.utterances} utterances, but {manifest.path} has {len(manifest)}; "
            "run `audiossl units apply` again"
        )
    return guard.counts


def _read_through(manifest: Manifest, name: str, guard: LabelGuard) -> np.ndarray:
    """Show the guard all labels of a directory. Returns (fact,) int64: utterances, flat ones, number of one of these, and labels per code."""
    rows = _numbered(manifest, name, len(guard.counts))
    while block := list(islice(rows, _BLOCK)):
        numbers = [number for number, _, _ in block]
        ids, labels = [utterance for _, utterance, _ in block], [labels for _, _, labels in block]
        guard.add(ids, np.concatenate(labels), np.array([len(each) for each in labels]), manifest.durations[numbers])
    example = bisect_left(manifest.ids, guard.example)
    return np.concatenate([[guard.utterances, guard.flat, example], guard.counts])


def _numbered(manifest: Manifest, name: str, size: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield (number of the utterance in the directory, utterance, labels); ValueError for one that is not in it."""
    ids = enumerate(manifest.ids)
    number, current = next(ids, (-1, None))
    for line, utterance, labels in read_labels(manifest.path, name, codebook_size=size):
        while current is not None and current < utterance:  # left out as unreadable when the labels were made
            number, current = next(ids, (-1, None))
        if current != utterance:
            raise ValueError(
                f"{labels_path(manifest.path, name)}:{line}: {utterance!r} is not in {manifest.path} or out of order; "
                "run `audiossl data fix`"
            )
        yield number, utterance, labels
