"""Barlow Twins for speakers: each dimension says the same of two crops, and no two dimensions say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.losses.barlow_twins import barlow_twins
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._speaker import output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class BarlowTwins(ProjectedObjective):
    """Barlow Twins (Zbontar et al., 2021) of two crops (Lepage and Dehak, 2022)."""

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """Defaults: Lepage and Dehak (2022). redundancy: lambda of the paper. scale: of the whole loss, from its published code."""

        projector_dims: tuple[int, ...] = (2048, 2048, 2048)
        redundancy: float = 0.005
        scale: float = 0.025

        @classmethod
        def tiny(cls) -> BarlowTwins.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), redundancy=0.05)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config

    def forward(self, batch: Batch) -> StepOutput:
        """See `barlow_twins`."""
        representations = self.embed(self.pieces(batch))
        first, second = self.project(representations)
        loss = barlow_twins(
            first,
            second,
            redundancy=self.config.redundancy,
            scale=self.config.scale,
            across_processes=self.across,
        )
        return output_of(loss, representations, positive_cosine=positive_cosine(representations))
