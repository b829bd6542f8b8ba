"""BYOL for speakers: predict what a momentum teacher makes of the other crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.losses.byol_regression import byol_regression
from audiossl.objectives._momentum import MomentumConfig, MomentumObjective
from audiossl.objectives._speaker import output_of, positive_cosine, projector

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class BYOL(MomentumObjective):
    """Both crops predict each other's target (Grill et al., 2020). There are no negatives, so utterances of one speaker do no harm."""

    @dataclass(frozen=True)
    class Config(MomentumConfig):
        """The paper's head, predictor and momentum, as published on VoxCeleb2 (sslsv): 13.99 % EER with Fast ResNet-34, not rerun here.

        projector_dims, predictor_dim: widths; the predictor ends as wide as the projector. ema_steps: 100 epochs of 1,092,009 utterances
        in batches of 256.
        """

        projector_dims: tuple[int, ...] = (4096, 256)
        predictor_dim: int = 4096
        ema_steps: int = 426_500

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.predictor_dim < 1:
                raise ValueError(f"objective.predictor_dim: {self.predictor_dim} is not positive")

        @classmethod
        def tiny(cls) -> BYOL.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 6), predictor_dim=8, momentum=0.5, ema_steps=4)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine", "embedding_std")

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config, projector(encoder.embedding_dim, config.projector_dims))
        self.config = config
        width = (encoder.embedding_dim, *config.projector_dims)[-1]
        self.predictor = projector(width, (config.predictor_dim, width))

    def forward(self, batch: Batch) -> StepOutput:
        """See `byol_regression`. positive_cosine: of the embeddings; it nears 1, with embedding_std 0, when they collapse."""
        self.begin()
        pieces = self.pieces(batch)
        embeddings = self.embed(pieces)
        predictions = self.per_view(self.predictor, self.per_view(self.head, embeddings))
        loss = byol_regression(predictions, self.targets(pieces))
        return output_of(loss, embeddings, positive_cosine=positive_cosine(embeddings))
