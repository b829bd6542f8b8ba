"""Additive margin (AM, CosFace): the positive's cosine less a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin

if TYPE_CHECKING:
    from torch import Tensor


class Additive(ScheduledMargin):
    """cos - m for positives (Wang et al., 2018, eq. 4; in NT-Xent: Lepage and Dehak, 2023)."""

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin: 0.1 did best for NT-Xent on VoxCeleb2 (Lepage and Dehak, 2024), 0.4 on VoxCeleb1 (2023)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:  # noqa: ARG002
        """See `additive_margin`."""
        return torch.where(positive, additive_margin(cosines, margin), cosines)


def additive_margin(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """Cosine - margin. cosine: of positives, (...). margin: in cosine, a scalar."""
    return cosine - margin


def margin_of_more_negatives(*, temperature: float, present: int, simulated: int) -> float:
    """The additive margin that acts like `simulated` negatives where there are `present` ones: temperature x log(simulated / present).

    It multiplies the sum over negatives by their ratio. A batch of 256 in symmetric NT-Xent has 510.
    """
    if not 0 < present <= simulated:
        raise ValueError(
            f"margin: {present} present negatives must be positive and no more than {simulated} simulated ones"
        )
    return temperature * math.log(simulated / present)
