"""Dynamic time warping of many short stretches against many others at once, as ABX compares tokens of phones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_MAX_CELLS = 1 << 23  # frame-to-frame distances held at once


@torch.no_grad()
def pairwise_dtw(first: Sequence[Tensor], second: Sequence[Tensor], *, max_cells: int = _MAX_CELLS) -> Tensor:
    """Mean angular distance of frames along the best alignment of each of `first` with each of `second`: (first, second).

    first, second: (frame, dim) floats, at least one frame each. The cost of a path is the sum of arccos(cosine) / pi over its cells, its steps
    are one frame on in either or in both; it is divided by the number of cells of the best path, of which, among equal ones, a diagonal step
    comes before one in `second`, and that before one in `first`. So does the ABX of ZeroSpeech (Kahn et al., 2020).
    """
    if not first or not second or not all(len(item) for item in (*first, *second)):
        raise ValueError(f"{len(first)} and {len(second)} stretches: give at least one each, of at least one frame")
    keys, key_lengths = _padded(second)
    order = sorted(range(len(first)), key=lambda index: len(first[index]))  # like lengths together: less padding
    distances = keys.new_empty(len(first), len(second))
    while order:
        # As many as fit when padded to the longest of them, which is the last.
        count = len(order)
        while count > 1 and count * len(first[order[count - 1]]) * keys.shape[0] * keys.shape[1] > max_cells:
            count = count // 2
        chosen, order = order[:count], order[count:]
        queries, lengths = _padded([first[index] for index in chosen])
        distances[torch.tensor(chosen)] = _aligned(_angles(queries, keys), lengths, key_lengths)
    return distances


def _padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(item, frame, dim) of length 1, and (item,) lengths."""
    lengths = torch.tensor([len(item) for item in items], device=items[0].device)
    return F.normalize(torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True), dim=-1), lengths


def _angles(queries: Tensor, keys: Tensor) -> Tensor:
    """(frame of query, frame of key, query, key)."""
    cosines = torch.einsum("xid,yjd->ijxy", queries, keys)
    return cosines.clamp(-1, 1).acos().div_(math.pi)


def _aligned(local: Tensor, lengths: Tensor, key_lengths: Tensor) -> Tensor:
    """Fill the tables of all pairs one anti-diagonal at a time: (query, key) mean cost where each pair's path ends.

    Cell (i, j) stands in row i + 1 of diagonal i + j; row 0 and what lies outside of the table are infinite.
    """
    rows, columns, num_queries, num_keys = local.shape
    cells = local.reshape(rows * columns, -1)  # (cell, pair)
    last_row = lengths.repeat_interleave(num_keys)  # (pair,), as row i + 1
    last = last_row + key_lengths.repeat(num_queries) - 2  # the diagonal on which a pair's path ends
    result = local.new_empty(cells.shape[1])
    outside = local.new_full((rows + 1, cells.shape[1]), torch.inf)
    cost, before, steps, steps_before = outside, outside, torch.zeros_like(outside), torch.zeros_like(outside)
    for diagonal in range(rows + columns - 1):
        top, bottom = max(0, diagonal - columns + 1), min(diagonal, rows - 1)  # i of its first and last cell
        i = torch.arange(top, bottom + 1, device=local.device)
        here = cells[i * columns + diagonal - i]
        now, now_steps = outside.clone(), torch.zeros_like(outside)
        if diagonal == 0:
            now[1], now_steps[1] = here[0], 1
        else:
            above, left, across = cost[top : bottom + 1], cost[top + 1 : bottom + 2], before[top : bottom + 1]
            diagonally = (across <= left) & (across <= above)
            along = ~diagonally & (left <= above)
            least = torch.where(diagonally, across, torch.where(along, left, above))
            now[top + 1 : bottom + 2] = here + least
            taken = torch.where(along, steps[top + 1 : bottom + 2], steps[top : bottom + 1])
            now_steps[top + 1 : bottom + 2] = torch.where(diagonally, steps_before[top : bottom + 1], taken) + 1
        ends = (last == diagonal).nonzero().squeeze(1)
        result[ends] = now[last_row[ends], ends] / now_steps[last_row[ends], ends]
        cost, before, steps, steps_before = now, cost, now_steps, steps
    return result.view(num_queries, num_keys)
