"""SpidR: each of the student's top layers names the codes of the same layer of the teacher (Poli et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiossl.nn.ema import exponential_decay
from audiossl.objectives._online_codes import OnlineCodesConfig, OnlineCodesObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


class SpidR(OnlineCodesObjective):
    """DinoSR with a head on each layer, whose target is of its own depth, and another schedule for the teacher.

    Heads see what targets are made of: what each feed-forward network gives, before dropout, residual and norm. So the norm of the last
    block's output learns nothing and stands still.
    """

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

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        encoder.transformer.last_norm.requires_grad_(False)  # processes that train together would wait for it

    def student_frames(self, local: LocalFeatures, masked: Tensor) -> list[Tensor]:
        """Give each head the feed-forward network of its depth."""
        x = self.encoder.masked_input(local.z, masked=masked)
        return self.encoder.transformer.feed_forward_outputs(x, local.lengths)[-self.config.top_layers :]

    def decay_after(self, step: int) -> float:
        """See `exponential_decay`."""
        return exponential_decay(step, start=self.config.ema_start, time_constant=self.config.ema_time_constant)
