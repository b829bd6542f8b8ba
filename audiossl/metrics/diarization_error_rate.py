"""Diarisation error rate, on frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class DiarizationErrors(NamedTuple):
    """Frames of speech of one recording, counted once per speaker: missed, invented, given to another, and all there are."""

    missed: int
    false_alarm: int
    confusion: int
    total: int


def diarization_error_rate(
    predictions: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    *,
    threshold: float = 0.5,
    median: int = 1,
    collar: int = 0,
    overlap: bool = True,
) -> float:
    """Missed, invented and confused speech, in percent of the speech of all references together (NIST RT-09 evaluation plan).

    predictions: (frame, speaker) probabilities, or bool, of each recording. references: (frame, speaker) bool; the numbers of
    speakers may differ. A speaker speaks where the probability is above `threshold` and, after that, in more than half of the
    `median` frames around (odd; 1 is off; beyond the ends is silence). Each recording has the one-to-one mapping of speakers that
    leaves the least confusion. collar: frames on either side of each start and end of a reference speaker that do not count.
    overlap: whether frames where several reference speakers talk count.

    SUPERB reports the least of thresholds 0.3, 0.4 ... 0.7 and medians 1 and 11, found on the test set, with no collar and overlap
    counted. Its tools measure in seconds of segments, whose ends are rounded; here they end where frames do.

    ValueError for recordings of other numbers of frames, predictions that are not finite, references of other values than 0 and 1, an even `median`,
    and references without speech.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    rows = [
        diarization_errors(predicted, wanted, threshold=threshold, median=median, collar=collar, overlap=overlap)
        for predicted, wanted in zip(predictions, references, strict=True)
    ]
    total = sum(row.total for row in rows)
    if not total:
        raise ValueError(f"{len(rows)} references hold no frame of speech to score; give some, or a smaller collar")
    return 100.0 * sum(row.missed + row.false_alarm + row.confusion for row in rows) / total


def diarization_errors(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    threshold: float = 0.5,
    median: int = 1,
    collar: int = 0,
    overlap: bool = True,
) -> DiarizationErrors:
    """Count the errors of one recording; see `diarization_error_rate`."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    probabilities, given = np.asarray(prediction), np.asarray(reference)
    wanted = given.astype(np.bool_)
    if probabilities.ndim != 2 or wanted.ndim != 2 or len(probabilities) != len(wanted):
        raise ValueError(
            f"prediction of shape {probabilities.shape}, reference of shape {wanted.shape}; give (frame, speaker) of as many frames"
        )
    _check_values(probabilities, given)
    active = _median_filter(probabilities > threshold, median)
    scored = _outside_collar(wanted, collar)
    if not overlap:
        scored &= wanted.sum(axis=1) < 2
    active, wanted = active[scored], wanted[scored]
    num_active, num_wanted = active.sum(axis=1), wanted.sum(axis=1)
    together = wanted.T.astype(np.float64) @ active
    correct = int(together[linear_sum_assignment(together, maximize=True)].sum())
    return DiarizationErrors(
        missed=int(np.maximum(num_wanted - num_active, 0).sum()),
        false_alarm=int(np.maximum(num_active - num_wanted, 0).sum()),
        confusion=int(np.minimum(num_active, num_wanted).sum()) - correct,
        total=int(num_wanted.sum()),
    )


def _check_values(probabilities: np.ndarray, given: np.ndarray) -> None:
    finite = np.isfinite(probabilities)
    if not finite.all():
        frame, speaker = np.argwhere(~finite)[0]
        raise ValueError(
            f"the prediction of frame {frame + 1} for speaker {speaker + 1} is {probabilities[frame, speaker]}; give finite numbers"
        )
    odd = (given != 0) & (given != 1)
    if odd.any():
        raise ValueError(
            f"{given[odd][0]} in a reference is neither 0 nor 1; give 1 where a speaker speaks and 0 elsewhere"
        )


def _median_filter(active: np.ndarray, width: int) -> np.ndarray:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"a median over {width} frames has no middle; give an odd number such as 11")
    sums = np.cumsum(np.pad(active, ((width // 2 + 1, width // 2), (0, 0))), axis=0, dtype=np.int64)
    filtered: np.ndarray = sums[width:] - sums[:-width] > width // 2
    return filtered


def _outside_collar(wanted: np.ndarray, collar: int) -> np.ndarray:
    """(frame,) bool, frames at least `collar` frames from every start and end; edge t lies between frames t - 1 and t."""
    if collar < 0:
        raise ValueError(f"a collar of {collar} frames; give 0 or more")
    edges = np.diff(np.pad(wanted, ((1, 1), (0, 0))), axis=0).any(axis=1)
    before = np.concatenate([[0], np.cumsum(edges)])  # edges in front of edge t
    frame = np.arange(len(wanted))
    first, last = np.maximum(frame - collar + 1, 0), np.minimum(frame + collar, len(wanted))
    outside: np.ndarray = before[last + 1] == before[first]
    return outside
