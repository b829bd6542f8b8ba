"""Masks of blocks with an exact share, as the paper of data2vec 2.0 has them; NumPy, for the loader's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def block_mask(
    num_frames: ArrayLike,
    *,
    mask_prob: float,
    mask_length: int,
    adjust: float,
    inverse: bool,
    generator: np.random.Generator,
    same_count: bool = False,
) -> NDArray[np.bool_]:
    """Blocks around random centres, trimmed or filled frame by frame to an exact count (Baevski et al., 2023, section 3.3).

    num_frames: (row,) ints, valid frames T. Returns (row, max T) bool, True = masked; padding never is. Blocks are of masked frames, R =
    mask_prob of them; or, `inverse`, of frames to keep, R = 1 - mask_prob. There are floor(T (R + adjust) / mask_length) centres, uniform
    with replacement; then frames drawn at random leave or join them until they are floor(R T). Where every frame would be masked, the last
    one stays. same_count: each row masks as many frames as the row with the fewest. Released speech models were trained on crops of masks that were
    drawn for whole utterances, whose share varies a little from crop to crop, and all kept as many frames as the first row.
    """
    frames = np.asarray(num_frames, dtype=np.int64)
    rows, width = len(frames), int(frames.max(initial=0))
    share = 1 - mask_prob if inverse else mask_prob
    covered = np.floor(share * frames).astype(np.int64)
    wanted = frames - covered if inverse else covered
    blocks = _blocks(
        frames, np.floor(frames * ((share + adjust) / mask_length)).astype(np.int64), mask_length, generator
    )
    # Frames with the highest scores are masked: those that blocks want masked first, each kind in random order, and padding never.
    scores = (blocks != inverse) + generator.random((rows, width))
    full = wanted >= frames
    scores[full, np.maximum(frames - 1, 0)[full]] = -0.5
    scores[np.arange(width) >= frames[:, None]] = -1.0
    wanted = np.maximum(np.where(full, frames - 1, wanted), 0)
    if same_count:
        wanted = np.full_like(wanted, wanted.min(initial=width))
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return ranks < wanted[:, None]


def _blocks(
    frames: NDArray[np.int64], counts: NDArray[np.int64], length: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark `length` frames around each of `counts[row]` centres, fewer at the ends of a row: (row, max T) bool."""
    rows, width = len(frames), int(frames.max(initial=0))
    row = np.repeat(np.arange(rows), counts)
    centre = (generator.random(row.size) * frames[row]).astype(np.int64)
    first = centre - length // 2
    edges = np.zeros((rows, width + 1), dtype=np.int64)  # +1 where a block begins, -1 behind its end
    np.add.at(edges, (row, np.maximum(first, 0)), 1)
    np.add.at(edges, (row, np.minimum(first + length, width)), -1)
    covered: NDArray[np.bool_] = edges.cumsum(axis=1)[:, :width] > 0
    return covered
