"""DinoSR: name the codes of all of the teacher's top layers from the student's last one (Liu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiossl.nn.ema import linear_decay
from audiossl.objectives._online_codes import OnlineCodesConfig, OnlineCodesObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import LocalFeatures


class DinoSR(OnlineCodesObjective):
    """Self-distillation with online clustering: every head looks at the last layer."""

    @dataclass(frozen=True)
    class Config(OnlineCodesConfig):
        """The published base model.

        ema_start, ema_end: decay of the teacher, which goes from one to the other in ema_steps steps. At freeze_step the teacher freezes,
        too.
        """

        ema_start: float = 0.999
        ema_end: float = 0.9999
        ema_steps: int = 30_000

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_share("ema_start", "ema_end")
            self.check_positive("ema_steps")

        @classmethod
        def tiny(cls) -> DinoSR.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.5, mask_length=3, top_layers=2, num_codes=5, freeze_step=2, ema_start=0.5, ema_steps=2
            )

    config: Config

    def student_frames(self, local: LocalFeatures, masked: Tensor) -> list[Tensor]:
        """Give each head the last layer."""
        layers = self.encoder.contextualise(local.z, local.lengths, masked=masked).layers
        return layers[-1:] * self.config.top_layers

    def decay_after(self, step: int) -> float:
        """Linear, then constant, and 1 from freeze_step on."""
        config = self.config
        if config.freeze_step and step >= config.freeze_step:
            return 1.0
        return linear_decay(step, start=config.ema_start, end=config.ema_end, steps=config.ema_steps)
