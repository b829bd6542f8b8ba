"""What objectives with prototypes share: random ones, exact scores, and how many of them are in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def unit_rows(count: int, dim: int) -> Tensor:
    """Random directions, (count, dim), by torch's global generator."""
    return F.normalize(torch.randn(count, dim), dim=1)


def cosine_scores(units: Tensor, prototypes: Tensor) -> Tensor:
    """Inner products of unit rows, (..., prototype), in float32 also under autocast: a temperature of 0.05 leaves nothing to round.

    units: (..., dim) float32. prototypes: (prototype, dim).
    """
    with torch.autocast(units.device.type, enabled=False):
        return units @ prototypes.T


@torch.no_grad()
def code_perplexity(scores: Tensor) -> Tensor:
    """Perplexity of the histogram of nearest prototypes: 1 where all rows share one. scores: (..., prototype)."""
    nearest = scores.flatten(0, -2).argmax(dim=1)
    share = torch.bincount(nearest, minlength=scores.shape[-1]).float() / len(nearest)
    perplexity: Tensor = torch.special.entr(share).sum().exp()
    return perplexity
