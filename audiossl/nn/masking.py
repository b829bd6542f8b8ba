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
    mask = _dilate(_draw_distinct(choices, counts, width, generator), mask_length)
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
    choices: NDArray[np.int64], counts: NDArray[np.int64], width: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark `counts[row]` distinct numbers, uniform on {0 .. choices[row] - 1}, in a table (row, width).

    Numbers are drawn with replacement and those that hit a taken place are drawn again: the set grows by a uniform choice among
    the free places, as it should, and costs as many draws as there are marks instead of as there are places. Rows that want
    more than half of their places mark the others and are inverted, which bounds the number of rounds.
    """
    rows = len(choices)
    invert = counts * 2 > choices
    drawn = np.where(invert, choices - counts, counts)
    offsets = np.arange(rows) * width
    owner = np.full(rows * width, -1, dtype=np.int32)
    # The first round draws what all rows want, as a table; the later rounds draw what is left, row by row.
    common = int(drawn.min())
    place = _below(choices[:, None], (rows, common), generator) + offsets[:, None]
    lost = _claim(owner, place.reshape(-1), 0)
    pending = np.concatenate([np.repeat(np.arange(rows), drawn - common), lost // max(common, 1)])
    first = rows * common
    while pending.size:
        place = _below(choices[pending], pending.shape, generator) + offsets[pending]
        first, pending = first + pending.size, pending[_claim(owner, place, first)]
    marks = (owner >= 0).reshape(rows, width)
    if invert.any():
        marks[invert] = ~marks[invert] & (np.arange(width) < choices[invert, None])
    return marks


def _below(limits: NDArray[np.int64], shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.int64]:
    """Integers uniform on {0 .. limit - 1} to within limit / 2^32: the high half of a 32-bit draw times the limit."""
    draws = generator.integers(0, 1 << 32, size=shape, dtype=np.uint32)
    return (draws * limits) >> 32


def _claim(owner: NDArray[np.int32], place: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Give each free place to one of the tickets `first`, `first + 1` ... that name it; return the indices of those left out."""
    ticket = np.arange(first, first + place.size, dtype=np.int32)
    if first == 0:
        owner[place] = ticket
    else:
        free = owner[place] < 0
        owner[place[free]] = ticket[free]
    return np.flatnonzero(owner[place] != ticket)


def _dilate(starts: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Mark the `length` places from each start on, by doubling: log2(length) passes over bytes."""
    spans, reach = starts, 1
    if starts.shape[1] <= length:  # rows are shorter than a span, so a flat shift would run into the next row
        return np.logical_or.accumulate(starts, axis=1)
    flat = starts.reshape(-1)
    while reach < length:
        shift = min(reach, length - reach)
        longer = np.empty_like(flat)
        longer[:shift] = flat[:shift]
        np.logical_or(flat[shift:], flat[:-shift], out=longer[shift:])
        flat, reach = longer, reach + shift
    return flat.reshape(spans.shape)


def _unmask_to_least(mask: NDArray[np.bool_], frames: NDArray[np.int64], generator: np.random.Generator) -> None:
    rows, width = mask.shape
    places = np.flatnonzero(mask)
    starts = np.searchsorted(places, np.arange(rows + 1) * width)
    counts = np.diff(starts)
    maskable = frames > 1
    excess = np.where(maskable, counts - counts[maskable].min(), 0)
    most = int(counts.max())
    row, rank = np.divmod(np.flatnonzero(_draw_distinct(counts, excess, most, generator)), most)
    mask.reshape(-1)[places[starts[row] + rank]] = False
