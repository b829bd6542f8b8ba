"""What margins share: how a loss calls them, how their size moves during training, and trigonometry with bounded gradients.

A loss calls `margin(cosines, positive, norms)` before it divides by the temperature. Any number of candidates of an anchor may be positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_NEAR_POLE = 1e-6  # of 1 - cos^2: closer than 1e-3 rad


class Margined(NamedTuple):
    """cosines: (anchor, candidate) after the margin. penalty: (anchor,), what the margin itself adds to the loss."""

    cosines: Tensor
    penalty: Tensor


class Margin(Protocol):
    """What a loss wants of a margin."""

    def __call__(self, cosines: Tensor, positive: Tensor, norms: Tensor) -> Margined:
        """cosines: (anchor, candidate). positive: the same, bool. norms: (anchor,), lengths of the anchors before normalisation."""
        ...


@dataclass(frozen=True)
class MarginConfig:
    """margin: its full size, `margin.size` in a recipe. ramp_steps: optimiser steps over which it grows to that size by half a cosine; 0: it starts there.

    learnable: a parameter that starts at `margin`. By itself the loss only ever makes it smaller: `reward` subtracts reward x margin
    from the loss (as in AdaptiveFace: Liu et al., 2019), against that. Lepage and Dehak (2023) ramp over the first half of training.
    """

    margin: float = 0.1
    ramp_steps: int = 0
    learnable: bool = False
    reward: float = 0.0

    neutral: ClassVar[float] = 0.0
    """The margin that changes nothing."""

    def __post_init__(self) -> None:
        if self.margin < self.neutral or self.ramp_steps < 0:
            raise ValueError(
                f"margin: margin {self.margin} and ramp_steps {self.ramp_steps} must be at least {self.neutral:g} and 0"
            )
        if self.learnable and self.ramp_steps:
            raise ValueError(f"margin: a learnable margin has no schedule; set ramp_steps to 0, not {self.ramp_steps}")
        if self.reward and not self.learnable:
            raise ValueError(
                f"margin.reward: {self.reward} changes nothing without learnable = true; set that, or reward = 0"
            )

    @classmethod
    def tiny(cls) -> Self:
        """Return the smallest one, for tests."""
        return cls(ramp_steps=2)


class ScheduledMargin(nn.Module):
    """A margin that is fixed, grows or is learnt; `margin` is its present size, part of the state.

    A subclass says in `apply_margin` what it does to cosines. A learnt margin is held at the neutral value where it would pass it.
    """

    margin: Tensor

    def __init__(self, config: MarginConfig) -> None:
        super().__init__()
        self.schedule = config
        start = torch.tensor(config.neutral if config.ramp_steps else config.margin)
        if config.learnable:
            self.margin = nn.Parameter(start)
        else:
            self.register_buffer("margin", start)

    def after_step(self, step: int) -> None:
        """Set the margin for the step after optimiser step `step` (1-based)."""
        if self.schedule.ramp_steps:
            self.margin.fill_(half_cosine(step, self.schedule))

    def forward(self, cosines: Tensor, positive: Tensor, norms: Tensor) -> Margined:
        """See `Margin`. Half-precision cosines are widened to float32."""
        cosines, norms = _wide(cosines), _wide(norms)
        margin = self.margin.to(cosines).clamp_min(self.schedule.neutral)
        penalty = self.penalty(norms) - self.schedule.reward * self.margin.to(cosines)
        return Margined(self.apply_margin(cosines, positive, norms, margin), penalty)

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:
        """Return the cosines (anchor, candidate) after the margin, a scalar tensor."""
        raise NotImplementedError

    def penalty(self, norms: Tensor) -> Tensor:
        """What the margin adds to the loss of each anchor, (anchor,)."""
        return torch.zeros_like(norms)


def half_cosine(step: int, config: MarginConfig) -> float:
    """Size of the margin after `step` steps: from neutral to full in `ramp_steps`, flat at both ends."""
    share = (1 - math.cos(math.pi * min(1.0, step / config.ramp_steps))) / 2
    return config.neutral + share * (config.margin - config.neutral)


def sine(cosine: Tensor) -> Tensor:
    """Sine of the angle, exact everywhere, with no gradient within 1e-3 rad of 0 and pi.

    The slope of sqrt(1 - c^2) is infinite there: a positive that meets its anchor exactly would make the step NaN.
    """
    square = ((1 - cosine) * (1 + cosine)).clamp_min(0)  # exact near 1, where 1 - c^2 is not
    smooth = square > _NEAR_POLE
    return torch.where(smooth, square.where(smooth, 1.0).sqrt(), square.detach().sqrt())


def angle(cosine: Tensor) -> Tensor:
    """Angle in [0, pi], with a bounded gradient; cosines may pass 1 by rounding."""
    return torch.atan2(sine(cosine), cosine)


def additive_angle(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """cos(angle + margin), or cosine - margin sin(margin) where angle + margin would pass pi, so that it falls all the way.

    cosine: (...). margin: radians, at most pi, a scalar or of a shape that fits (Deng et al., 2019, eq. 3, and its published code).
    """
    margin = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    return torch.where(
        cosine > -margin.cos(),
        cosine * margin.cos() - sine(cosine) * margin.sin(),
        cosine - margin * margin.sin(),
    )


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in {torch.bfloat16, torch.float16} else x
