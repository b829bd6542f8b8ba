"""AdaFace: a margin that asks more of long embeddings, taken as a sign of quality, and less of short ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin, angle
from audiossl.nn.gather import layout_of, sum_over_processes

if TYPE_CHECKING:
    from torch import Tensor

_POLE = 1e-3  # rad, as published


class AdaFace(ScheduledMargin):
    """An angular and an additive margin whose shares depend on the anchor's length (Kim et al., 2022).

    Running mean and deviation of the lengths are the state. In training mode they move before they are used; they are the same in all
    processes, and all have to call this. A batch of one anchor has no deviation and moves nothing.
    """

    norm_mean: Tensor
    norm_deviation: Tensor

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin: 0.4 in the paper, with labels; ours is that of AAM in contrastive losses.

        concentration: h, how much of the lengths' deviation reaches the ends of the scale. rate: of the running mean and deviation.
        """

        concentration: float = 0.333
        rate: float = 0.01

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.concentration <= 0 or not 0 <= self.rate <= 1:
                raise ValueError(
                    f"margin: concentration {self.concentration} must be positive and rate {self.rate} between 0 and 1"
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_deviation", torch.tensor(100.0))

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:
        """See `adaface_margin`. The lengths get no gradient."""
        norms = norms.detach().clamp(1e-3, 100.0)
        if self.training:
            self._move(norms)
        quality = (norms - self.norm_mean) / (self.norm_deviation + 1e-3) * self.config.concentration
        shifted = adaface_margin(cosines, quality.clamp(-1, 1).to(cosines).unsqueeze(1), margin)
        return torch.where(positive, shifted, cosines)

    def _move(self, norms: Tensor) -> None:
        layout = layout_of(norms)
        if layout.total < 2:
            return
        mean = sum_over_processes(norms.sum(), layout) / layout.total
        square = sum_over_processes((norms - mean).square().sum(), layout) / (layout.total - 1)
        for kept, seen in ((self.norm_mean, mean), (self.norm_deviation, square.sqrt())):
            kept.lerp_(torch.where(seen.isfinite(), seen.to(kept), kept), self.config.rate)


def adaface_margin(cosine: Tensor, quality: Tensor | float, margin: Tensor | float) -> Tensor:
    """cos(angle - margin x quality), the angle held 1e-3 rad inside 0 and pi, less margin + margin x quality.

    cosine: of positives, (...). quality: in [-1, 1], of a shape that fits: 1 is an additive margin of 2 m with a relaxed angle, -1 AAM, 0 AM.
    """
    turned = (angle(cosine) - margin * quality).clamp(_POLE, math.pi - _POLE)
    return turned.cos() - margin * (1 + quality)
