"""What objectives with a momentum teacher share: a second encoder and head that follow the ones that train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from audiossl.nn.ema import WithFollowers, cosine_decay, follow, follower_of
from audiossl.objectives._speaker import CropConfig, SpeakerObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import SpeakerEncoder


@dataclass(frozen=True)
class MomentumConfig(CropConfig):
    """momentum: what the teacher keeps of itself in a step, at first. ema_steps: over which that grows to 1 by half a cosine; 0: never.

    After ema_steps the teacher stands still, so it is train.max_steps as a rule.
    """

    momentum: float = 0.996
    ema_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"objective.momentum: {self.momentum} is not between 0 and 1")
        if self.ema_steps < 0:
            raise ValueError(f"objective.ema_steps: {self.ema_steps} is negative; give train.max_steps, or 0 for none")


class MomentumObjective(SpeakerObjective, WithFollowers):
    """The base: `teacher` and `teacher_head` follow `encoder` and `head`. MoCo calls them key encoder, BYOL target network.

    The moving average is over parameters. Batch norms of the teacher are in training mode like the student's: they normalise by the
    batch, and their running means are those of the teacher's own outputs, which its weights fit, not an average of the student's.
    """

    def __init__(
        self,
        encoder: SpeakerEncoder,
        config: MomentumConfig,
        head: nn.Module,
        durations: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(encoder, config, durations)
        self.ema = config
        self.head = head
        assert isinstance(encoder, nn.Module)
        self.teacher, self.teacher_head = follower_of(encoder), follower_of(head)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and batch norms on and off: the teacher's where the student's are, since none of its parameters trains and would tell."""
        super().train(mode)
        for teacher, student in self.pairs():
            for follower, followed in zip(teacher.modules(), student.modules(), strict=True):
                follower.training = followed.training
        return self

    def after_step(self, step: int) -> None:
        """Move the teacher by 1 - momentum towards the student (He et al., 2020, eq. 2; Grill et al., 2020, eq. 1)."""
        super().after_step(step)
        follow(self.pairs(), momentum_after(step, self.ema), buffers=False)

    @torch.no_grad()
    def targets(self, pieces: list[Tensor]) -> Tensor:
        """What the teacher makes of pieces of one length: (view, batch, output)."""
        return self.per_view(self.teacher_head, self.embed(pieces, self.teacher))

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Teacher and student, encoders and heads."""
        assert isinstance(self.encoder, nn.Module)
        return [(self.teacher, self.encoder), (self.teacher_head, self.head)]


def momentum_after(step: int, config: MomentumConfig) -> float:
    """Momentum of the update after optimiser step `step` (1-based). The first update has the configured momentum itself."""
    if not config.ema_steps:
        return config.momentum
    return cosine_decay(step, start=config.momentum, steps=config.ema_steps)
