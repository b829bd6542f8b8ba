"""Multiplicative angular margin (SphereFace): the positive's angle times a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin, angle

if TYPE_CHECKING:
    from torch import Tensor


class SphereFace(ScheduledMargin):
    """psi(angle) for positives, see `sphereface_margin`; a margin of 1 changes nothing, and a ramp starts there."""

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin: factor, at least 1; 4 in Liu et al. (2017), with labels; ours is mild, for comparisons without.

        straight_through: the gradient is that of the cosine, as if the margin were a constant (Liu et al., 2022). Then a
        margin cannot be learnt.
        """

        margin: float = 1.5
        straight_through: bool = True

        neutral: ClassVar[float] = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.learnable and self.straight_through:
                raise ValueError(
                    "margin: straight_through leaves a learnable margin without gradient; set straight_through = false"
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:  # noqa: ARG002
        """See `sphereface_margin`."""
        shifted = sphereface_margin(cosines, margin, straight_through=self.config.straight_through)
        return torch.where(positive, shifted, cosines)


def sphereface_margin(cosine: Tensor, margin: Tensor | float, *, straight_through: bool = True) -> Tensor:
    """The angle function psi = (-1)^k cos(margin x angle) - 2 k with k = floor(margin x angle / pi) (Liu et al., 2017).

    It falls with the angle all the way. cosine: of positives, (...). margin: factor, a scalar. straight_through: the slope in the cosine is 1, not that of psi.
    """
    wide = margin * angle(cosine)
    turns = (wide.detach() / math.pi).floor()
    psi = (1 - 2 * turns.remainder(2)) * wide.cos() - 2 * turns
    return cosine + (psi - cosine).detach() if straight_through else psi
