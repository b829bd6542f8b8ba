"""VICReg for speakers: two crops of an utterance agree, and no dimension dies or repeats another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.losses.vicreg import vicreg_terms
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._speaker import output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class VICReg(ProjectedObjective):
    """VICReg (Bardes et al., 2022) of two crops (Lepage and Dehak, 2022). There are no negatives, so none can be the same speaker.

    VIbCReg differs in its covariance term and in a normalisation after the projector; the loss alone is a term of `combined`.
    """

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """Weights of the three terms and projector of Lepage and Dehak (2022). covariance: 0.1 in their later models."""

        projector_dims: tuple[int, ...] = (2048, 2048, 2048)
        invariance: float = 1.0
        variance: float = 1.0
        covariance: float = 0.04

        @classmethod
        def tiny(cls) -> VICReg.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), covariance=0.1)

    headline: ClassVar[tuple[str, ...]] = ("invariance", "variance")

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config

    def forward(self, batch: Batch) -> StepOutput:
        """See `vicreg`; its terms are logged before they are weighted. variance: near 2 once all dimensions have died."""
        representations = self.embed(self.pieces(batch))
        first, second = self.project(representations)
        terms = vicreg_terms(first, second, across_processes=self.across)
        loss = terms.weighted(self.config.invariance, self.config.variance, self.config.covariance)
        return output_of(loss, representations, positive_cosine=positive_cosine(representations), **terms._asdict())
