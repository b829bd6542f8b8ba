"""Which frames are masked: random spans for pretraining and SpecAugment-like fine-tuning.

They are drawn in the loader's workers, by a compiled loop (see `data.compiled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio


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
    same_count: frames drawn at random are unmasked until each row has the share of masked frames that the least masked one has, to the
    nearest frame (rows of fewer than two frames, which cannot be masked, aside). Published code takes the least count for all; in rows of
    one length, to which it crops for pretraining, that is the same, and in others a short row would leave long ones hardly masked.
    """
    frames = _checked(num_frames, mask_prob, mask_length)
    rows, width = len(frames), int(frames.max(initial=0))
    if width < 2:
        return np.zeros((rows, width), dtype=np.bool_)
    wanted = np.floor(mask_prob * frames / mask_length + generator.random(rows)).astype(np.int64)
    choices = np.where(frames > 1, np.maximum(frames - mask_length, 1), 0)
    counts = np.minimum(np.maximum(wanted, min_masks), choices)
    mask = np.zeros((rows, width), dtype=np.uint8)
    seed = generator.integers(1 << 64, dtype=np.uint64)
    _fill(mask, frames, choices, counts, mask_length, same_count, seed)
    return mask.view(np.bool_)


def channel_mask(
    batch: int,
    num_channels: int,
    *,
    mask_prob: float,
    mask_length: int,
    generator: np.random.Generator,
    min_masks: int = 0,
    same_count: bool = False,
) -> NDArray[np.bool_]:
    """Spans of channels masked in all frames, for fine-tuning (Baevski et al., 2020, section 3.3): (batch, channel) bool.

    same_count: as in `span_mask`; of 768 channels, 0.5 of them in spans of 64 mask 31 % in 13 rows instead of 40 %.
    """
    return span_mask(
        np.full(batch, num_channels),
        mask_prob=mask_prob,
        mask_length=mask_length,
        generator=generator,
        min_masks=min_masks,
        same_count=same_count,
    )


def _checked(num_frames: ArrayLike, mask_prob: float, mask_length: int) -> NDArray[np.int64]:
    frames = np.asarray(num_frames, dtype=np.int64)
    if frames.ndim != 1 or frames.min(initial=0) < 0:
        raise ValueError(f"num_frames {frames.tolist()} is not a list of frame counts; give one count per utterance")
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob {mask_prob} is not a probability; give a number from 0 to 1")
    if mask_length < 1:
        raise ValueError(f"mask_length {mask_length} is not a span; give at least 1 frame")
    return frames


@compiled("int64(uint64, int64)")
def _below(state: np.uint64, limit: np.int64) -> np.int64:
    """Draw an integer, uniform on {0 .. limit - 1} but for 2^-32, from a counter (SplitMix64: Steele et al., 2014)."""
    bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return np.int64(((bits >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@compiled("void(uint8[:, ::1], int64[::1], int64[::1], int64[::1], int64, boolean, uint64)")
def _fill(
    mask: NDArray[np.uint8],
    frames: NDArray[np.int64],
    choices: NDArray[np.int64],
    counts: NDArray[np.int64],
    length: int,
    same_count: bool,
    state: np.uint64,
) -> None:
    """Mark in each row `counts` spans from distinct starts below `choices`; unmask to the least share where counts shall be the same.

    What was drawn before is drawn again, which makes a set as likely as any other of its size. state: seeds the draws.
    """
    rows, width = mask.shape
    started = np.empty(width, dtype=np.uint8)
    masked = np.zeros(rows, dtype=np.int64)
    least, of = width, width  # masked and valid frames of the row with the least share
    for row in range(rows):
        started[:] = 0
        wanted = counts[row]
        while wanted > 0:
            state += _STEP
            start = _below(state, choices[row])
            wanted -= 1 - started[start]  # without a branch, which half of the time would be guessed wrong
            started[start] = 1
            for frame in range(start, min(start + length, frames[row] - 1)):
                mask[row, frame] = 1
        for frame in range(width):
            masked[row] += mask[row, frame]
        if frames[row] > 1 and masked[row] * of < least * frames[row]:
            least, of = masked[row], frames[row]
    if same_count:
        for row in range(rows):
            wanted = (2 * least * frames[row] + of) // (2 * of)
            while masked[row] > wanted:
                state += _STEP
                frame = _below(state, frames[row])
                masked[row] -= mask[row, frame]
                mask[row, frame] = 0
