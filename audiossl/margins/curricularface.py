"""CurricularFace: an angular margin on positives, and negatives that beat it weigh more as training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.margins._base import MarginConfig, ScheduledMargin, additive_angle, sine
from audiossl.nn.gather import layout_of, sum_over_processes

if TYPE_CHECKING:
    from torch import Tensor


class CurricularFace(ScheduledMargin):
    """AAM on positives, n (t + n) for hard negatives n; `level` t is a running mean of positive cosines (Huang et al., 2020).

    In training mode the level moves before it is used; it is the same in all processes, and all have to call this.
    """

    level: Tensor

    @dataclass(frozen=True)
    class Config(MarginConfig):
        """margin: radians; 0.5 in the paper, with labels; ours is that of AAM in contrastive losses. momentum: of the level."""

        momentum: float = 0.99

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.momentum <= 1:
                raise ValueError(f"margin.momentum: {self.momentum} is not between 0 and 1")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.register_buffer("level", torch.tensor(0.0))

    def apply_margin(self, cosines: Tensor, positive: Tensor, norms: Tensor, margin: Tensor) -> Tensor:  # noqa: ARG002
        """See `curricularface_margin`."""
        if self.training:
            self._move(cosines.detach(), positive)
        return curricularface_margin(cosines, positive, margin, self.level.to(cosines))

    def _move(self, cosines: Tensor, positive: Tensor) -> None:
        own = torch.stack([cosines.where(positive, 0.0).sum(), positive.sum().to(cosines)])
        total, count = sum_over_processes(own, layout_of(cosines))
        counts = (count > 0) & total.isfinite()
        mean = torch.where(counts, total / count.clamp_min(1), self.level.to(cosines))
        self.level.lerp_(mean.to(self.level), 1 - self.config.momentum)


def curricularface_margin(cosines: Tensor, positive: Tensor, margin: Tensor | float, level: Tensor | float) -> Tensor:
    """Return the cosines (anchor, candidate) with AAM on positives and n (level + n) for negatives n above cos(angle + margin).

    cosines: (anchor, candidate). positive: the same, bool. margin: radians, a scalar. level: scalar. Where an anchor has several positives,
    a negative is hard when it beats the lowest of them. Nothing of an anchor without positives changes.
    """
    margin = torch.as_tensor(margin, dtype=cosines.dtype, device=cosines.device)
    turned = (cosines * margin.cos() - sine(cosines) * margin.sin()).detach()
    lowest = turned.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)  # (anchor, 1)
    negatives = torch.where(cosines > lowest, cosines * (level + cosines), cosines)
    return torch.where(positive, additive_angle(cosines, margin), negatives)
