"""How much representations differ: what shows a collapse before the loss does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def spread(frames: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """How much frames differ, to see a collapse coming. frames: (frame, dim).

    embedding_std: standard deviation over frames, mean over dimensions. effective_rank: the participation ratio of the correlation
    matrix R, (trace R)^2 / (sum of squares of R): 1 where all dimensions move together, dim where none do, 0 where nothing moves. It
    costs one matrix product; a few loud dimensions, which healthy encoders have, do not drown the others.
    """
    count = len(frames)
    total = torch.full((), count, dtype=torch.float32, device=frames.device)
    if count == 0:
        return {"embedding_std": (total, total), "effective_rank": (total, total)}
    with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
        centred = frames.float() - frames.float().mean(dim=0)
        std = centred.square().mean(dim=0).sqrt()
        unit = centred / std.clamp_min(1e-6)
        correlation = unit.T @ unit / count
        rank = correlation.trace() ** 2 / correlation.square().sum().clamp_min(1e-12)
    return {"embedding_std": (std.mean() * total, total), "effective_rank": (rank * total, total)}


def deviation(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation over frames, mean over dimensions, of (frame, dim), as a metric: its sum over frames, and their number."""
    total = torch.full((), len(frames), dtype=torch.float32, device=frames.device)
    if len(frames) == 0:
        return total, total
    return frames.detach().float().std(dim=0, correction=0).mean() * total, total
