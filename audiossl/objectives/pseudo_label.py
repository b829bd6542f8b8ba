"""Speaker classification on clusters: the labels are those of `audiossl cluster`, and the ones that cost too much are not believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from audiossl.objectives._classes import ClassConfig, Classes, ClassObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import SpeakerEncoder


class PseudoLabel(ClassObjective):
    """Margin softmax over clusters with loss-gated learning (Tao et al., 2022).

    A network learns reliable labels sooner than wrong ones: after a time with all of them, it is trained only on utterances whose loss is
    at most `gate`. Evaluation counts all. Utterances without a line in the column are left out. The published system clusters, trains
    without the gate, trains with it, and begins again, five times; here each time is a run with `--init`, whose vectors start afresh: clusters
    of the same number are others each time. gating: whether the time without the gate is over.
    """

    gating: Tensor

    @dataclass(frozen=True)
    class Config(ClassConfig):
        """gate: in nats; 1, 3, 3, 5 and 6 in the five rounds of the published code, on 6,000 clusters and crops of 3 s.

        gate_after: optimiser steps in which all labels count; early losses are all above the gate. Published: until the equal error rate has
        not improved for four epochs; our default is 10 epochs of 1,092,009 utterances in batches of 512.
        """

        partial: ClassVar[bool] = True

        column: str = "utt2cluster"
        crop_duration: float = 3.0
        gate: float = 1.0
        gate_after: int = 21_320

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.gate <= 0 or self.gate_after < 0:
                raise ValueError(
                    f"objective: gate {self.gate} must be positive and gate_after {self.gate_after} at least 0"
                )

        @classmethod
        def tiny(cls) -> PseudoLabel.Config:
            """Return the smallest one that exercises everything, for tests: any column holds labels."""
            return cls("utt2spk", crop_duration=0.3, gate=50.0, gate_after=1)

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "kept")

    def __init__(self, encoder: SpeakerEncoder, config: Config, classes: Classes) -> None:
        super().__init__(encoder, config, classes)
        self.threshold, self.gate_after = config.gate, config.gate_after
        self.register_buffer("gating", torch.tensor(config.gate_after == 0))

    @property
    def gate(self) -> float | None:
        """The configured one, once its time has come."""
        return self.threshold if self.training and self.gating else None

    def after_step(self, step: int) -> None:
        """Close the gate after `gate_after` steps."""
        super().after_step(step)
        self.gating.fill_(step >= self.gate_after)
