"""Beam search over token by token, for all utterances of a batch at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from audiossl.tasks._translator import KeysValues

    Step: TypeAlias = Callable[[Tensor, list[KeysValues] | None], tuple[Tensor, list[KeysValues]]]


def best_texts(
    step: Step, batch: int, *, width: int, max_tokens: int, mark: int, device: torch.device
) -> list[list[int]]:
    """Tokens of the best text of each utterance, without the mark that ends it; never none. With a width of 1 this is greedy.

    step: (row,) newest tokens and what the last call gave, None at first, to log-probabilities (row, token) and what the next call wants, tensors by
    row; rows are `width` for each utterance. A text is rated by the mean log-probability of its tokens and the mark (length penalty 1), and an
    utterance is done once `width` texts have ended that were among its `width` best continuations. `max_tokens`: longer ones are ended.
    """
    scores = torch.full((batch, width), -math.inf, device=device)
    scores[:, 0] = 0.0  # at first all beams are one
    tokens = torch.full((batch * width,), mark, device=device)
    history = torch.empty((batch, width, 0), dtype=torch.int64, device=device)
    best = torch.full((batch,), -math.inf, device=device)
    ended = torch.zeros(batch, dtype=torch.int64, device=device)
    found: list[list[int]] = [[] for _ in range(batch)]
    first_row = torch.arange(batch, device=device).unsqueeze(1) * width
    past: list[KeysValues] | None = None
    for length in range(1, max_tokens + 2):
        gains, past = step(tokens, past)
        _restrict(gains, mark, first=length == 1, last=length > max_tokens)
        total = (scores.unsqueeze(2) + gains.view(batch, width, -1)).flatten(1)
        top, place = total.topk(min(2 * width, total.shape[1]))
        beam, token = place // gains.shape[1], place % gains.shape[1]
        ends = token == mark
        closing = ends[:, :width] & top[:, :width].isfinite() & (ended < width).unsqueeze(1)
        rated, which = torch.where(closing, top[:, :width] / length, -math.inf).max(dim=1)
        for row in (rated > best).nonzero().flatten().tolist():
            found[row] = history[row, beam[row, which[row]]].tolist()
        best = torch.maximum(best, rated)
        ended += closing.sum(dim=1)
        if length > max_tokens or bool((ended >= width).all()):
            break
        # The best that go on, in their order.
        order = ends.byte().argsort(dim=1, stable=True)[:, :width]
        scores = top.gather(1, order).masked_fill(ends.gather(1, order), -math.inf)
        beam, token = beam.gather(1, order), token.gather(1, order)
        history = torch.cat([history.gather(1, beam.unsqueeze(2).expand(-1, -1, length - 1)), token.unsqueeze(2)], 2)
        rows, tokens = (first_row + beam).flatten(), token.flatten()
        past = [(keys[rows], values[rows]) for keys, values in past]
    return found


def _restrict(gains: Tensor, mark: int, *, first: bool, last: bool) -> None:
    """Let no text end before it has begun, and every one at the last step."""
    if last:
        kept = gains[:, mark].clone()
        gains.fill_(-math.inf)
        gains[:, mark] = kept
    elif first:
        gains[:, mark] = -math.inf
