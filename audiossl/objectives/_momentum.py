"""What objectives with a momentum teacher share: a second encoder and head that follow the ones that train."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from audiossl.objectives._speaker import CropConfig, SpeakerObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import SpeakerEncoder

Module = TypeVar("Module")


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


class MomentumObjective(SpeakerObjective):
    """The base: `teacher` and `teacher_head` follow `encoder` and `head`. MoCo calls them key encoder, BYOL target network.

    The moving average is over parameters. Batch norms of the teacher are in training mode like the student's: they normalise by the
    batch, and their running means are those of the teacher's own outputs, which its weights fit, not an average of the student's.
    """

    begun: Tensor

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
        self.teacher, self.teacher_head = _follower(self.encoder), _follower(head)
        self.register_buffer("begun", torch.tensor(False))
        self._looked = False

    def begin(self) -> None:
        """Give the teacher the student's weights before the first step; `forward` calls it.

        Not sooner: an encoder may get those of another experiment after it was built.
        """
        if self._looked:  # reading `begun` at every step would wait for the device
            return
        if not self.begun:
            for follower, leader in self._pairs():
                follower.load_state_dict(leader.state_dict())
            self.begun.fill_(True)
        self._looked = True

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher by 1 - momentum towards the student (He et al., 2020, eq. 2; Grill et al., 2020, eq. 1)."""
        super().after_step(step)
        followers: list[Tensor] = []
        leaders: list[Tensor] = []
        for follower, leader in self._pairs():
            followers += follower.parameters()
            leaders += leader.parameters()
        torch._foreach_lerp_(followers, leaders, 1 - momentum_after(step, self.ema))

    @torch.no_grad()
    def targets(self, pieces: list[Tensor]) -> Tensor:
        """What the teacher makes of pieces of one length: (view, batch, output)."""
        return through(self.teacher_head, self.embed(pieces, self.teacher))

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        assert isinstance(self.teacher, nn.Module)
        assert isinstance(self.encoder, nn.Module)
        return [(self.teacher, self.encoder), (self.teacher_head, self.head)]


def momentum_after(step: int, config: MomentumConfig) -> float:
    """Momentum of the update after optimiser step `step` (1-based): 1 - (1 - momentum) (cos(pi (step - 1) / ema_steps) + 1) / 2.

    Grill et al. (2020), section 3.2. The first update has the configured momentum itself.
    """
    if not config.ema_steps:
        return config.momentum
    done = min(1.0, (step - 1) / config.ema_steps)
    return 1 - (1 - config.momentum) * (math.cos(math.pi * done) + 1) / 2


def through(head: nn.Module, views: Tensor, **options: Tensor) -> Tensor:
    """Outputs of a head whose batch norms see all views together. views: (view, batch, dim); returns (view, batch, output)."""
    outputs: Tensor = head(views.flatten(0, 1), **options)
    return outputs.view(*views.shape[:2], -1)


def _follower(module: Module) -> Module:
    follower: Any = copy.deepcopy(module)
    follower.requires_grad_(False)
    return follower  # type: ignore[no-any-return]
