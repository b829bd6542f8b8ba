"""Long recordings heard in windows: attention over all of an hour takes hours, memory to match, and no signal in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.data.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.train.fine_tune import FineTune

_SHOWN = 20  # windows, from which on progress is worth a line


def predict_in_windows(module: FineTune, batch: Batch, grid: FrameGrid, window: int) -> Iterator[str]:
    """Yield what a task that scores frames, CTC, reads in each recording of a batch. window: see `score_in_windows`."""

    def score(waveform: Tensor) -> Tensor:
        lengths = torch.tensor([len(waveform)], device=waveform.device)
        piece = {"waveform": waveform[None], "waveform_lengths": lengths}
        scores: Tensor = module.task.logits(module.encode(piece))[0]
        return scores

    rows = zip(batch["waveform"], batch["waveform_lengths"].tolist(), batch["utt_ids"], strict=True)
    for waveform, length, utterance in rows:
        scores = score_in_windows(score, waveform[:length], grid, window, label=utterance)
        yield from module.task.read(scores[None], torch.tensor([len(scores)], device=scores.device))


def score_in_windows(
    score: Callable[[Tensor], Tensor], waveform: Tensor, grid: FrameGrid, window: int, *, label: str
) -> Tensor:
    """Scores of a recording's frames, (frame, token), of which `score` hears `window` frames at a time, (sample,) -> (frame, token).

    Windows overlap by a third: the outer sixth of each lacks what is beside it, and is taken from its neighbour. An encoder that normalises what it hears
    normalises each window by itself.
    """
    edge, total = window // 6, grid.num_frames(len(waveform))
    hop = window - 2 * edge
    starts = range(0, max(1, total - window + hop), hop)
    parts = []
    for start in progress(starts, len(starts), label) if len(starts) >= _SHOWN else starts:
        last, first = start == starts[-1], start * grid.stride
        scores = score(waveform[first:] if last else waveform[first : first + grid.samples_of(window)])
        parts.append(scores[edge if start else 0 : None if last else window - edge])
    return torch.cat(parts)
