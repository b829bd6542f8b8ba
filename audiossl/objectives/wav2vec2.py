"""wav2vec 2.0: find the quantised features of each masked frame among those of others (Baevski et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiossl.objectives._contrastive import ContrastiveConfig, ContrastiveObjective

if TYPE_CHECKING:
    from audiossl.contracts import Batch, StepOutput


class Wav2Vec2(ContrastiveObjective):
    """Contrastive learning of masked frames against product-quantised targets."""

    @dataclass(frozen=True)
    class Config(ContrastiveConfig):
        """The published base model."""

        @classmethod
        def tiny(cls) -> Wav2Vec2.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, final_dim=8, num_negatives=5, entries=4)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames, and count them.

        L = sum of -log p(q_t | c_t) + N (diversity_weight L_div + penalty_weight mean(z^2)), N masked frames (section 3.2, eq. 2 to 4).
        """
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        return self.contrast(local, self.quantise(local.z, batch), local.penalty, batch)
