"""Diarisation error rates at several thresholds and median filters at once, as SUPERB reports the least of them."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def diarization_grid(
    predictions: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    *,
    thresholds: Sequence[float],
    medians: Sequence[int],
    spans: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> np.ndarray:
    """(threshold, median) rates in percent, each what `diarization_error_rate` gives, with no collar and overlap counted.

    predictions: (frame, output) probabilities of each recording; references: (frame, speaker) bool, of as many frames. spans: where turns do not end with frames,
    references are (span, speaker), and this says of each span its frame, the number of frames for one behind the last, and its seconds: rates are then of time.
    All recordings stand in one array, so that a setting costs a few passes over it; mappings of speakers are all tried: for few speakers.
    """
    for median in medians:
        if median < 1 or median % 2 == 0:
            raise ValueError(f"a median over {median} frames has no middle; give an odd number such as 11")
    for number, prediction in enumerate(predictions):
        if np.isnan(prediction).any():
            raise ValueError(f"the prediction of recording {number + 1} has frames that are nan; give probabilities")
    gap = max(max(medians) - 1, 1)  # silence between recordings: no median sees two of them, and none is empty
    width = max(array.shape[1] for array in (*predictions, *references))
    probabilities = _end_to_end(predictions, gap, width, np.float32(-np.inf))
    wanted = _end_to_end(references, 1, width, np.False_)
    frames, seconds, starts = _placed(predictions, references, spans, gap)
    num_wanted = wanted.sum(axis=1)
    total = float(num_wanted @ seconds)
    if not total:
        raise ValueError(f"{len(references)} references hold no frame of speech to score; give some")
    rates = np.empty((len(thresholds), len(medians)))
    for row, threshold in enumerate(thresholds):
        above = probabilities > threshold
        for column, median in enumerate(medians):
            active = _smoothed(above, median)[frames]
            spoken = float(
                np.maximum(num_wanted, active.sum(axis=1)) @ seconds
            )  # what would be wrong if no speaker were right
            rates[row, column] = 100.0 * (spoken - _correct(active, wanted, seconds, starts)) / total
    return rates


def _placed(
    predictions: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    spans: Sequence[tuple[np.ndarray, np.ndarray]] | None,
    gap: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame in the one array and seconds of every span, with one of no length behind each recording; and where recordings begin: (recording,)."""
    if spans is None:
        spans = [(np.arange(len(reference)), np.ones(len(reference))) for reference in references]
    firsts = np.cumsum([0, *(len(prediction) + gap for prediction in predictions)])
    frames = [
        np.append(frame, len(prediction)) + first
        for (frame, _), prediction, first in zip(spans, predictions, firsts[:-1], strict=True)
    ]
    starts = np.cumsum([0, *map(len, frames)])[:-1]
    return np.concatenate(frames), np.concatenate([np.append(seconds, 0.0) for _, seconds in spans]), starts


def _end_to_end(arrays: Sequence[np.ndarray], gap: int, width: int, silence: np.generic) -> np.ndarray:
    """(frame, width): the recordings one after the other, each followed by `gap` frames of silence."""
    joined = np.full((sum(len(array) + gap for array in arrays), width), silence)
    start = 0
    for array in arrays:
        joined[start : start + len(array), : array.shape[1]] = array
        start += len(array) + gap
    return joined


def _smoothed(active: np.ndarray, median: int) -> np.ndarray:
    if median == 1:
        return active
    sums = np.cumsum(np.pad(active, ((median // 2 + 1, median // 2), (0, 0))), axis=0, dtype=np.int64)
    smoothed: np.ndarray = sums[median:] - sums[:-median] > median // 2
    return smoothed


def _correct(active: np.ndarray, wanted: np.ndarray, seconds: np.ndarray, starts: np.ndarray) -> float:
    """Time whose speaker is right by the best mapping of each recording."""
    speakers = range(active.shape[1])
    together = {
        (s, r): np.add.reduceat((active[:, s] & wanted[:, r]) * seconds, starts) for s in speakers for r in speakers
    }
    ways = [np.sum([together[pair] for pair in enumerate(order)], axis=0) for order in permutations(speakers)]
    return float(np.max(ways, axis=0).sum())
