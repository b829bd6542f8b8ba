"""SpidR: each of the student's top layers names the codes of the same layer of the teacher (Poli et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiossl.nn.ema import exponential_decay
from audiossl.objectives._online_codes import OnlineCodesConfig, OnlineCodesObjective

if TYPE_CHECKING:
    from torch import Tensor


class SpidR(OnlineCodesObjective):
    """DinoSR with a head on each layer, whose target is of its own depth, and another schedule for the teacher."""

    @dataclass(frozen=True)
    class Config(OnlineCodesConfig):
        """The published base model.

        ema_start: decay of the teacher at first; what it lacks to 1 shrinks by e in every ema_time_constant steps, to nothing from 1e-7 on.
        """

        ema_start: float = 0.999
        ema_time_constant: int = 20_000

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_share("ema_start")
            self.check_positive("ema_time_constant")

        @classmethod
        def tiny(cls) -> SpidR.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.5, mask_length=3, top_layers=2, num_codes=5, freeze_step=2, ema_start=0.5,
                ema_time_constant=2,
            )  # fmt: skip

    config: Config

    def predicted_from(self, layers: list[Tensor]) -> list[Tensor]:
        """Give each head the layer of its depth."""
        return layers[-self.config.top_layers :]

    def decay_after(self, step: int) -> float:
        """See `exponential_decay`."""
        return exponential_decay(step, start=self.config.ema_start, time_constant=self.config.ema_time_constant)
