"""VIbCReg for speakers: VICReg whose projections are whitened in groups, and whose dimensions must not be correlated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from audiossl.losses.vibcreg import vibcreg_terms
from audiossl.nn.iter_norm import IterNorm
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._speaker import output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class VIbCReg(ProjectedObjective):
    """VIbCReg (Lee and Aune, 2021) of two crops.

    Iterative normalisation ends the projector, over first and second crops together and, like its batch norms, over those of this
    process; the published code normalises each view by itself.
    """

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """Weights and normalisation of the models on VoxCeleb2 of Lepage and Dehak's code, which gives no figure for them.

        groups: of dimensions that are whitened together. iterations: of the normalisation.
        """

        invariance: float = 1.0
        variance: float = 1.0
        covariance: float = 8.0
        groups: int = 64
        iterations: int = 5

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.groups < 1 or self.iterations < 1:
                raise ValueError(f"objective: groups {self.groups} and iterations {self.iterations} must be at least 1")

        @classmethod
        def tiny(cls) -> VIbCReg.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), groups=2, iterations=3)

    headline: ClassVar[tuple[str, ...]] = ("invariance", "variance")

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        if self.out_dim % config.groups:
            raise ValueError(
                f"objective.groups: {self.out_dim} dimensions do not make {config.groups} groups of one size; give a divisor"
            )
        self.config = config
        layers = [*self.projector.children()]
        if layers:  # the normalisation takes the last bias out again: only rounding errors would train it
            layers[-1].get_parameter("bias").requires_grad_(False)
        norm = IterNorm(self.out_dim, groups=config.groups, iterations=config.iterations)
        self.projector = nn.Sequential(*layers, norm)

    def forward(self, batch: Batch) -> StepOutput:
        """See `vibcreg`; its terms are logged before they are weighted. variance: near 2 once all dimensions have died."""
        representations = self.embed(self.pieces(batch))
        first, second = self.project(representations)
        terms = vibcreg_terms(first, second, across_processes=self.across)
        loss = terms.weighted(self.config.invariance, self.config.variance, self.config.covariance)
        return output_of(loss, representations, positive_cosine=positive_cosine(representations), **terms._asdict())
