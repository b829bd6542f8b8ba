"""Additive angular margin (AAM, ArcFace): the positive's angle plus a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin, additive_angle

if TYPE_CHECKING:
    from torch import Tensor


class AdditiveAngular(ScheduledMargin):
    """cos(angle + m) for positives, continued below pi - m (Deng et al., 2019, eq. 3; in NT-Xent: Lepage and Dehak, 2023)."""

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin: radians; 0.1 in NT-Xent (Lepage and Dehak, 2023), where 0.3 made gradients explode; 0.2 is usual with labels."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:  # noqa: ARG002
        """See `additive_angular_margin`."""
        return torch.where(positive, additive_angular_margin(cosines, margin), cosines)


def additive_angular_margin(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """cos(angle + margin), where that falls with the angle; cosine - margin sin(margin) beyond pi - margin.

    cosine: of positives, (...). margin: radians, a scalar or of a shape that fits. Gradients are finite at cosines of exactly -1 and 1.
    """
    return additive_angle(cosine, margin)
