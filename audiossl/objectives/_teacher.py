"""What objectives with a momentum teacher over a Transformer share: its place, its targets, and how it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from audiossl.nn.ema import WithFollowers, follow, follower_of
from audiossl.nn.speaker_frontend import instance_normalised
from audiossl.objectives._masked import MaskConfig, MaskedObjective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from audiossl.nn.ssl_encoder import SSLEncoder


@dataclass(frozen=True)
class TeacherConfig(MaskConfig):
    """top_layers: of the teacher, whose outputs are targets; published base models: 8 of 12."""

    top_layers: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_layers < 1:
            raise ValueError(f"objective.top_layers: {self.top_layers} leaves no target; give at least 1")

    def check_share(self, *names: str) -> None:
        """ValueError where one of these options is not between 0 and 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not between 0 and 1")

    def check_positive(self, *names: str) -> None:
        """ValueError where one of these options is not positive."""
        for name in names:
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")


class TeacherObjective(MaskedObjective, WithFollowers):
    """The base: `teacher` follows the encoder's Transformer and sees every frame; the frontend and its projection are shared.

    The teacher is always in eval mode: no dropout, no dropped layer. Its weights are float32, as the student's.
    """

    def __init__(self, encoder: SSLEncoder, config: TeacherConfig) -> None:
        super().__init__(encoder, config)
        if config.top_layers > encoder.num_layers:
            raise ValueError(
                f"objective.top_layers: {config.top_layers} is more than the {encoder.num_layers} of the encoder; give fewer"
            )
        self.top_layers = config.top_layers
        self.teacher = follower_of(encoder.transformer).eval()

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Teacher and student."""
        return [(self.teacher, self.encoder.transformer)]

    def decay_after(self, step: int) -> float:
        """What the teacher keeps of itself after optimiser step `step` (1-based)."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        super().after_step(step)
        follow(self.pairs(), self.decay_after(step), buffers=True)

    def train(self, mode: bool = True) -> Self:
        """Leave the teacher in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(self, x: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """Of each of the top layers, the lowest first: what its feed-forward network adds, normalised over the time of each utterance.

        x: (batch, frame, dim), projected features without masks; lengths: (batch,). Yields (batch, frame, dim) float32, zero at padding.
        """
        x, layout = self.teacher.enter(x, lengths)
        lowest = len(self.teacher.layers) - self.top_layers
        for number, layer in enumerate(self.teacher.layers):
            x, added = layer.parts(x, layout)  # type: ignore[operator]
            if number >= lowest:
                yield instance_normalised(layout.leave(added), lengths, variance=True)
