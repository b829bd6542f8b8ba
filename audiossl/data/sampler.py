"""Batches of like lengths: which utterances make up batch number so-and-so, as a function of the seed alone.

Utterances are sorted by length, each length first stretched by a small random factor, so that neighbours differ from epoch to
epoch; the sorted list is cut into batches of at most `batch_seconds` of padded audio, and the batches are shuffled. The cuts
allow for the largest stretch and are thus the same in every epoch: all epochs have equally many batches, and global batch number
`position` is batch `position % n` of epoch `position // n` without anything to replay.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_STREAM = 2**31 - 2
"""Keeps the sampler's random numbers apart from those of utterances, which are seeded from (seed, epoch, index)."""
_CACHED_EPOCHS = 2  # who goes to and fro between neighbours plans each once


class BucketSampler:
    """Maps global batch numbers to utterances; a function of the arguments only, so that any process can make any batch.

    durations: (utterance,) seconds. batch_seconds: limit on longest x count of a batch; an utterance longer than that is a batch
    of its own. Utterances outside [min_duration, max_duration] are left out, `num_short` and `num_long` of them.
    crop_duration: longer utterances count as this long, because they will be cropped to it. batch_utterances: limit on the count, 0 for
    none. jitter: largest relative change of a length before sorting; more mixes better and pads more. shuffle=False: one epoch, every
    utterance once, longest first.

    Costs 16 bytes per utterance and 8 more for each of the last two epochs.
    """

    def __init__(
        self,
        durations: ArrayLike,
        *,
        batch_seconds: float,
        seed: int,
        max_duration: float | None = None,
        min_duration: float = 0.0,
        crop_duration: float | None = None,
        batch_utterances: int = 0,
        jitter: float = 0.06,
        shuffle: bool = True,
    ) -> None:
        self.seed, self.shuffle = seed, shuffle
        self.jitter = jitter if shuffle else 0.0
        seconds = np.asarray(durations, dtype=np.float64)
        _check(seconds, batch_seconds, min_duration, max_duration, crop_duration, jitter, seed)
        if batch_utterances < 0:
            raise ValueError(f"batch_utterances is {batch_utterances}; give a number of utterances, or 0 for no limit")
        longest = np.inf if max_duration is None else max_duration
        self.num_short = int(np.count_nonzero(seconds < min_duration))
        self.num_long = int(np.count_nonzero(seconds > longest))
        self._kept = np.flatnonzero((seconds >= min_duration) & (seconds <= longest))
        if self._kept.size == 0:
            raise ValueError(
                f"none of {seconds.size} utterances lasts between {min_duration} s and {longest} s;"
                " widen min_duration and max_duration"
            )
        self._seconds = np.minimum(seconds[self._kept], np.inf if crop_duration is None else crop_duration)
        self._cuts = _cut(self._seconds, batch_seconds, batch_utterances, self.jitter)
        self._plans: OrderedDict[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of utterances that are kept."""
        return int(self._kept.size)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": OrderedDict()}

    @property
    def num_dropped(self) -> int:
        """Utterances left out because they are too short or too long."""
        return self.num_short + self.num_long

    def batches_per_epoch(self, epoch: int = 0) -> int:
        """Return the number of batches of an epoch, which is the same for all; without shuffling only epoch 0 has any."""
        return 0 if epoch > 0 and not self.shuffle else self._cuts.size - 1

    def batch(self, position: int) -> tuple[int, NDArray[np.intp]]:
        """Return (epoch, utterance indices) of global batch number `position`; IndexError past the end of an evaluation."""
        epoch, number = divmod(int(position), self._cuts.size - 1)
        if position < 0 or (epoch > 0 and not self.shuffle):
            raise IndexError(f"batch {position} is not among {self._cuts.size - 1} batches of one epoch")
        order, batches = self._plan(epoch)
        chosen = batches[number]
        return epoch, self._kept[order[self._cuts[chosen] : self._cuts[chosen + 1]]]

    @property
    def batch_sizes(self) -> NDArray[np.intp]:
        """(batch,) utterances, the same in every epoch."""
        return np.diff(self._cuts)

    @property
    def longest(self) -> float:
        """Seconds that the longest utterance counts."""
        return float(self._seconds.max())

    def useful_fraction(self, epoch: int = 0) -> float:
        """Seconds of audio as a share of the seconds that the padded batches of `epoch` hold."""
        order, _ = self._plan(epoch)
        longest = np.maximum.reduceat(self._seconds[order], self._cuts[:-1])
        return float(self._seconds.sum() / (longest * np.diff(self._cuts)).sum())

    def summary(self) -> str:
        """Say in one line what was kept and left out, for the log."""
        line = f"{len(self)} utterances, {self._seconds.sum() / 3600:.2f} h, in {self.batches_per_epoch()} batches"
        return f"{line}; left out: {self.num_short} too short, {self.num_long} too long" if self.num_dropped else line

    def _plan(self, epoch: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return (utterances in the order of the cuts, batches in the order of the epoch)."""
        if epoch not in self._plans:
            rng = np.random.default_rng([self.seed, _STREAM, epoch])
            # Products, unlike logarithms, round alike on every processor: the order is the same everywhere.
            lengths = self._seconds * (1 + self.jitter * rng.random(self._seconds.size))
            order = np.argsort(-lengths, kind="stable")
            number = self._cuts.size - 1
            self._plans[epoch] = order, rng.permutation(number) if self.shuffle else np.arange(number)
            while len(self._plans) > _CACHED_EPOCHS:
                self._plans.popitem(last=False)
        return self._plans[epoch]


def _cut(seconds: NDArray[np.float64], batch_seconds: float, batch_utterances: int, jitter: float) -> NDArray[np.intp]:
    """Return the first place of each batch in the sorted list, and the list's length.

    Stretched lengths are at most (1 + jitter) times the plain ones, and so are the sorted lists place by place. Hence no
    utterance at or after a place is longer than (1 + jitter) times the plain length of that place in descending order.
    """
    descending = np.sort(seconds)[::-1]
    bound = np.minimum(descending * (1 + jitter), descending[0])
    # The summand keeps quotients such as 0.3 / 0.1 whole.
    counts = np.clip(np.floor(batch_seconds / bound + 1e-9), 1, max(seconds.size, 1)).astype(np.int64)
    if batch_utterances:
        counts = np.minimum(counts, batch_utterances)
    cuts = [0]
    while cuts[-1] < counts.size:
        cuts.append(cuts[-1] + int(counts[cuts[-1]]))
    cuts[-1] = counts.size
    if len(cuts) > 2 and 2 * (cuts[-1] - cuts[-2]) < cuts[-2] - cuts[-3]:
        # A remainder of one utterance has nobody to be compared with: it shares with the batch before, whose limit both keep.
        cuts[-2] = (cuts[-1] + cuts[-3] + 1) // 2
    return np.asarray(cuts, dtype=np.intp)


def _check(
    seconds: NDArray[np.float64],
    batch_seconds: float,
    min_duration: float,
    max_duration: float | None,
    crop_duration: float | None,
    jitter: float,
    seed: int,
) -> None:
    unusable = np.flatnonzero(~(np.isfinite(seconds) & (seconds > 0)))
    if unusable.size:
        first = unusable[0]
        raise ValueError(f"utterance {first} (counted from 0) lasts {seconds[first]} s; mend its duration in utt2dur")
    if not batch_seconds > 0:
        raise ValueError(f"batch_seconds is {batch_seconds}; give a positive number of seconds")
    if max_duration is not None and max_duration < min_duration:
        raise ValueError(f"max_duration {max_duration} is below min_duration {min_duration}; exchange them")
    if crop_duration is not None and not crop_duration > 0:
        raise ValueError(f"crop_duration is {crop_duration}; give a positive number of seconds, or none")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter is {jitter}; give a number from 0 to below 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or more")
