"""MagFace: an angular margin that grows with the length of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin, additive_angle

if TYPE_CHECKING:
    from torch import Tensor


class MagFace(ScheduledMargin):
    """AAM whose margin is m(a) of the anchor's length a (Meng et al., 2021), and a penalty that rewards length.

    `margin` is the margin of the longest; the margin of the shortest keeps its proportion to it, on a ramp too. The gradient reaches the
    lengths, so these must be those before normalisation.
    """

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin, lower_margin: radians, of anchors of length upper_norm and lower_norm or beyond; 0.8 and 0.45 in the paper, with labels.

        penalty_weight: lambda_g of the penalty a / upper_norm^2 + 1 / a; 35 in the paper, 0 in contrastive use.
        """

        margin: float = 0.05
        lower_margin: float = 0.01
        lower_norm: float = 10.0
        upper_norm: float = 110.0
        penalty_weight: float = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.lower_margin <= self.margin or self.margin == 0:
                raise ValueError(f"margin.lower_margin: {self.lower_margin} is not between 0 and margin, {self.margin}")
            if not 0 < self.lower_norm < self.upper_norm:
                raise ValueError(f"margin: norms {self.lower_norm} and {self.upper_norm} must be positive and rise")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:
        """See `magface_margin`."""
        config = self.config
        shifted = magface_margin(
            cosines,
            norms.unsqueeze(1),
            lower_margin=margin * (config.lower_margin / config.margin),
            upper_margin=margin,
            lower_norm=config.lower_norm,
            upper_norm=config.upper_norm,
        )
        return torch.where(positive, shifted, cosines)

    def penalty(self, norms: Tensor) -> Tensor:
        """lambda_g g(a) of each anchor, g(a) = a / upper_norm^2 + 1 / a with a clipped: least at the greatest length."""
        length = norms.clamp(self.config.lower_norm, self.config.upper_norm)
        return self.config.penalty_weight * (length / self.config.upper_norm**2 + 1 / length)


def magface_margin(
    cosine: Tensor,
    norms: Tensor,
    *,
    lower_margin: Tensor | float = 0.01,
    upper_margin: Tensor | float = 0.05,
    lower_norm: float = 10.0,
    upper_norm: float = 110.0,
) -> Tensor:
    """cos(angle + m(a)), m linear in the length from lower_margin at lower_norm to upper_margin at upper_norm, constant beyond.

    cosine: of positives, (...). norms: lengths before normalisation, of a shape that fits.
    """
    share = (norms.clamp(lower_norm, upper_norm) - lower_norm) / (upper_norm - lower_norm)
    return additive_angle(cosine, lower_margin + (upper_margin - lower_margin) * share)
