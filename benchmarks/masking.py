"""Span masks for whole batches against loops over utterances; goal: 100 times as fast as the published loop.

The baseline, "published", works as in the released code of wav2vec 2.0 and HuBERT: for each utterance `numpy.random.choice` of the
starts without replacement, a list of all frames of all spans, `numpy.unique`, a choice of those that stay where counts shall be
the same, and one row of the mask. "sliced" and "loop" are leaner loops that nobody published, for perspective: `random.sample`
for the starts, then one slice per span, or frame by frame. All draw the same masks in distribution. Times are the best of
several runs of one batch, one thread. Before them 16 MB are allocated and freed, as a loader's worker does with every batch: from
then on the C library keeps freed memory, where otherwise each array of more than 128 kB could cost page faults.

Example: python benchmarks/masking.py --check
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from _machine import add_check, best, describe, finish

from audiossl.nn.span_masks import span_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOAL = 100
PROB, LENGTH = 0.8, 10
LOOPS = ("published", "sliced", "loop")


def main() -> None:
    """Print microseconds per batch and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_check(parser)
    options = parser.parse_args()
    print(describe())
    print(
        f"{'batch':>10} {'same count':>10} {'span_mask':>12}" + "".join(f" {name:>12} {'ratio':>6}" for name in LOOPS)
    )
    np.ones(1 << 21).sum()  # 16 MB, freed at once
    goals = {}
    for batch, frames in ((64, 781), (512, 150)):
        draws = np.empty(batch * round(PROB * frames / LENGTH))
        peak = best(partial(np.random.default_rng(0).random, out=draws), 300)
        for same_count in (False, True):
            num_frames = np.full(batch, frames)
            ours = best(partial(_fast_masks, num_frames, same_count, np.random.default_rng(0)), 300)
            row, ratios = f"{f'{batch} x {frames}':>10} {same_count!s:>10} {ours * 1e6:9.0f} us", {}
            for name in LOOPS:
                slow = best(partial(slow_masks, num_frames.tolist(), same_count=same_count, how=name), 40)
                ratios[name] = slow / ours
                row += f" {slow * 1e6:9.0f} us {slow / ours:6.1f}"
            print(row)
            kind = "same count" if same_count else "free count"
            goals[f"{batch} x {frames}, {kind}: {ratios['published']:.1f} of {GOAL} times"] = (
                ratios["published"] >= GOAL
            )
        print(f"{'':>10} {'peak':>10} {peak * 1e6:9.0f} us  to draw as many random numbers as there are starts")
    finish(goals, check=options.check)


def slow_masks(num_frames: list[int], *, same_count: bool, how: str) -> NDArray[np.bool_]:
    """Mask utterance by utterance; how: one of `LOOPS`."""
    if how == "published":
        return published_masks(num_frames, same_count=same_count)
    masks = np.zeros((len(num_frames), max(num_frames)), dtype=np.bool_)
    for row, frames in zip(masks, num_frames, strict=True):
        count = max(2, int(PROB * frames / LENGTH + random.random()))  # noqa: S311
        for start in random.sample(range(frames - LENGTH), count):
            if how == "sliced":
                row[start : start + LENGTH] = True
            else:
                for frame in range(start, start + LENGTH):
                    row[frame] = True
    if same_count:
        least = min(int(row.sum()) for row in masks)
        for row in masks:
            masked = row.nonzero()[0]
            row[random.sample(masked.tolist(), len(masked) - least)] = False
    return masks


def published_masks(num_frames: list[int], *, same_count: bool) -> NDArray[np.bool_]:
    """The baseline: the legacy generator and the lists are those of the released code."""
    chosen = []
    for frames in num_frames:
        count = max(2, int(PROB * frames / LENGTH + np.random.rand()))  # noqa: NPY002
        starts = np.random.choice(frames - LENGTH, count, replace=False)  # noqa: NPY002
        places = np.asarray([starts[i] + offset for i in range(count) for offset in range(LENGTH)])
        chosen.append(np.unique(places[places < frames]))
    masks = np.full((len(num_frames), max(num_frames)), fill_value=False)
    least = min(len(places) for places in chosen)
    for row, places in zip(masks, chosen, strict=True):
        kept = places
        if same_count and len(places) > least:
            kept = np.random.choice(places, least, replace=False)  # noqa: NPY002
        row[kept] = True
    return masks


def _fast_masks(num_frames: NDArray[np.int64], same_count: bool, generator: np.random.Generator) -> None:
    span_mask(num_frames, mask_prob=PROB, mask_length=LENGTH, generator=generator, same_count=same_count)


if __name__ == "__main__":
    main()
