"""Which frames are masked: random spans for pretraining and SpecAugment-like fine-tuning, and the mask of valid frames.

The span masks are NumPy, for they are drawn in the loader's workers, and have no loop over utterances, spans or frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor


def span_mask(
    num_frames: ArrayLike,
    *,
    mask_prob: float,
    mask_length: int,
    generator: np.random.Generator,
    min_masks: int = 2,
    same_count: bool = False,
) -> NDArray[np.bool_]:
    """Masks made of spans that may overlap (Baevski et al., 2020, section 3.1 and appendix A).

    num_frames: (batch,) ints, valid frames T. Returns (batch, max T) bool, True = masked; padding never is.
    Each row has n = max(min_masks, floor(mask_prob * T / mask_length + U(0, 1))) distinct starts, uniform on
    {0 .. T - mask_length - 1}, or all of them where n is more; so the last frame is never masked, and `mask_prob` is the
    masked share only if spans did not overlap: 0.65 masks 49 % and 0.80 57 % of a long utterance at length 10.
    A row of T <= mask_length frames, where no span fits, is masked but for its last frame.
    same_count: frames drawn at random are unmasked until each row has as many as the least masked one (rows of fewer than two
    frames, which cannot be masked, aside).
    """
    frames = _checked(num_frames, mask_prob, mask_length)
    rows, width = len(frames), int(frames.max(initial=0))
    if width < 2:
        return np.zeros((rows, width), dtype=np.bool_)
    wanted = np.floor(mask_prob * frames / mask_length + generator.random(rows)).astype(np.int64)
    choices = np.where(frames > 1, np.maximum(frames - mask_length, 1), 0)
    counts = np.minimum(np.maximum(wanted, min_masks), choices)
    starts = _draw_distinct(choices, counts, np.full(rows, width), generator)
    mask = _dilate(starts.reshape(rows, width), mask_length)
    if frames.min() <= mask_length:
        mask &= np.arange(width) < (frames - 1)[:, None]
    if same_count:
        _unmask_to_least(mask, frames, generator)
    return mask


def channel_mask(
    batch: int,
    num_channels: int,
    *,
    mask_prob: float,
    mask_length: int,
    generator: np.random.Generator,
    min_masks: int = 2,
) -> NDArray[np.bool_]:
    """Spans of channels masked in all frames, for fine-tuning (Baevski et al., 2020, section 3.3): (batch, channel) bool."""
    return span_mask(
        np.full(batch, num_channels),
        mask_prob=mask_prob,
        mask_length=mask_length,
        generator=generator,
        min_masks=min_masks,
    )


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Return (batch, frame) bool, True where a frame is not padding."""
    import torch

    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)


def _checked(num_frames: ArrayLike, mask_prob: float, mask_length: int) -> NDArray[np.int64]:
    frames = np.asarray(num_frames, dtype=np.int64)
    if frames.ndim != 1 or frames.min(initial=0) < 0:
        raise ValueError(f"num_frames {frames.tolist()} is not a list of frame counts; give one count per utterance")
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob {mask_prob} is not a probability; give a number from 0 to 1")
    if mask_length < 1:
        raise ValueError(f"mask_length {mask_length} is not a span; give at least 1 frame")
    return frames


def _draw_distinct(
    choices: NDArray[np.int64], counts: NDArray[np.int64], widths: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark `counts[row]` distinct cells, uniform on the first `choices[row]` of the `widths[row]` cells of a row: (cell,) of all rows.

    Cells are drawn with replacement and those that hit a taken one are drawn again: the set grows by a uniform choice among the
    free cells, as it should, and costs as many draws as there are marks instead of as there are cells. Rows that want more than
    half of their choices mark the others and are inverted, which bounds the number of rounds.
    """
    ends = np.cumsum(widths)
    first = ends - widths
    invert = counts * 2 > choices
    drawn = np.where(invert, choices - counts, counts)
    marks = np.zeros(int(ends[-1]), dtype=np.bool_)
    row = np.repeat(np.arange(len(choices)), drawn)
    tickets = np.arange(row.size, dtype=np.min_scalar_type(row.size))  # narrow, for memory is what takes the time
    owner = np.empty(marks.size, dtype=tickets.dtype)  # of a cell drawn in this round: the draw that gets it
    limits = choices.astype(np.float64)
    while row.size:
        draw = generator.random(row.size)
        draw *= limits.take(row)  # a double below 1 times an integer rounds to less than it: the limit is never drawn
        cell = draw.astype(np.intp)
        cell += first.take(row)
        ticket = tickets[: row.size]
        owner[cell] = ticket
        lost = owner.take(cell) != ticket
        if row.size < tickets.size:  # not the first round, in which all cells are free
            lost |= marks.take(cell)
        marks[cell] = True
        row = row[lost]
    if invert.any():
        inside = np.arange(marks.size) < np.repeat(first + choices, widths)
        marks = (marks ^ np.repeat(invert, widths)) & inside
    return marks


def _dilate(starts: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Mark the `length` places from each start on, by doubling: log2(length) passes over bytes; `starts` is overwritten."""
    if starts.shape[1] <= length:  # rows are shorter than a span, so a flat shift would run into the next row
        return np.logical_or.accumulate(starts, axis=1)
    flat, reach = starts.reshape(-1), 1
    longer = np.empty_like(flat)
    while reach < length:
        shift = min(reach, length - reach)
        longer[:shift] = flat[:shift]
        np.logical_or(flat[shift:], flat[:-shift], out=longer[shift:])
        flat, longer, reach = longer, flat, reach + shift
    return flat.reshape(starts.shape)


def _unmask_to_least(mask: NDArray[np.bool_], frames: NDArray[np.int64], generator: np.random.Generator) -> None:
    rows, width = mask.shape
    places = np.flatnonzero(mask)
    counts = np.diff(np.searchsorted(places, np.arange(rows + 1) * width))
    maskable = frames > 1
    excess = np.where(maskable, counts - counts[maskable].min(), 0)
    removed = np.flatnonzero(_draw_distinct(counts, excess, counts, generator))
    mask.reshape(-1)[places[removed]] = False
