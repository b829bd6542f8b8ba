"""Barlow Twins for speakers: each dimension says the same of two crops, and no two dimensions say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.losses._variance import off_diagonal
from audiossl.losses.barlow_twins import Normalisation, cross_correlation, distance_from_identity
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._speaker import output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class BarlowTwins(ProjectedObjective):
    """Barlow Twins (Zbontar et al., 2021) of two crops (Lepage and Dehak, 2022)."""

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """Defaults: Lepage and Dehak (2022). redundancy: lambda of the paper. scale: of the whole loss, from their code.

        normalisation: of the embeddings before they are correlated, see `cross_correlation`; all but `batch` is our variant.
        """

        projector_dims: tuple[int, ...] = (2048, 2048, 2048)
        redundancy: float = 0.005
        scale: float = 0.025
        normalisation: Normalisation = "batch"

        @classmethod
        def tiny(cls) -> BarlowTwins.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), redundancy=0.05)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine", "redundancy")

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config

    def forward(self, batch: Batch) -> StepOutput:
        """See `barlow_twins`.

        invariance: mean of (1 - C)^2 on the diagonal of the correlation; 0 when both crops say the same. redundancy: mean of C^2 beside it;
        0 when no two dimensions say the same. Brima et al. (2024) read off both.
        """
        representations = self.embed(self.pieces(batch))
        first, second = self.project(representations)
        correlation = cross_correlation(
            first, second, normalisation=self.config.normalisation, across_processes=self.across
        )
        loss = distance_from_identity(correlation, redundancy=self.config.redundancy, scale=self.config.scale)
        pairs = len(correlation) * (len(correlation) - 1)
        metrics = {
            "invariance": (1 - correlation.diagonal()).square().mean(),
            "redundancy": off_diagonal(correlation).square().sum() / max(pairs, 1),
            "positive_cosine": positive_cosine(representations),
        }
        return output_of(loss, representations, **metrics)
