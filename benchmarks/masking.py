"""Span masks for whole batches against two loops over utterances; run `python benchmarks/masking.py`.

All draw the same masks in distribution. "sliced" is the fastest simple loop: `random.sample` for the starts of an utterance, one slice per
span. "loop" sets each frame of each span instead. "lists" does as pretraining code commonly does: `numpy.random.choice` without
replacement, a list of all frames of all spans, `numpy.unique`. Times are the best of several runs of one batch on one core.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from audiossl.nn.masking import span_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def main() -> None:
    """Print microseconds per batch and ratios."""
    loops = ("sliced", "loop", "lists")
    print(
        f"{'batch':>10} {'same count':>10} {'span_mask':>12}" + "".join(f" {name:>12} {'ratio':>6}" for name in loops)
    )
    for batch, frames in ((64, 781), (512, 150)):
        for same_count in (False, True):
            num_frames = np.full(batch, frames)
            ours = _best(partial(_fast_masks, num_frames, same_count, np.random.default_rng(0)), 300)
            row = f"{f'{batch} x {frames}':>10} {same_count!s:>10} {ours * 1e6:9.0f} us"
            for name in loops:
                slow = _best(partial(slow_masks, num_frames.tolist(), same_count=same_count, how=name), 5)
                row += f" {slow * 1e6:9.0f} us {slow / ours:6.1f}"
            print(row)


def slow_masks(
    num_frames: list[int], *, same_count: bool, how: str, prob: float = 0.8, length: int = 10
) -> NDArray[np.bool_]:
    """Mask utterance by utterance; how: "sliced", "loop" or "lists"."""
    masks = np.zeros((len(num_frames), max(num_frames)), dtype=np.bool_)
    for row, frames in zip(masks, num_frames, strict=True):
        count = max(2, int(prob * frames / length + random.random()))  # noqa: S311
        if how == "lists":
            chosen = np.random.choice(frames - length, count, replace=False)  # noqa: NPY002
            row[np.unique([chosen[i] + offset for i in range(count) for offset in range(length)])] = True
            continue
        for start in random.sample(range(frames - length), count):
            if how == "sliced":
                row[start : start + length] = True
            else:
                for frame in range(start, start + length):
                    row[frame] = True
    if same_count:
        least = min(int(row.sum()) for row in masks)
        for row in masks:
            masked = row.nonzero()[0]
            excess = len(masked) - least
            row[random.sample(masked.tolist(), excess)] = False
    return masks


def _fast_masks(num_frames: NDArray[np.int64], same_count: bool, generator: np.random.Generator) -> None:
    span_mask(num_frames, mask_prob=0.8, mask_length=10, generator=generator, same_count=same_count)


def _best(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
