"""W-MSE for speakers: two crops agree after their group was whitened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from audiossl.losses.w_mse import w_mse
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective, uncounted
from audiossl.objectives._speaker import output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class WMSE(ProjectedObjective):
    """W-MSE (Ermolov et al., 2021) of two crops.

    A batch that does not fill one group, such as the last one of an epoch, trains nothing and counts nothing; three of them in a row are
    a ValueError.
    """

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """group_size: utterances that are whitened together, twice the dimension at least. shrinkage: share of the identity in the covariance.

        Defaults: the model on Fast ResNet-34 of Lepage and Dehak's code.
        """

        projector_dims: tuple[int, ...] = (1024, 64)
        group_size: int = 128
        shrinkage: float = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.shrinkage < 1:
                raise ValueError(f"objective.shrinkage: {self.shrinkage} is not in [0, 1); give 0 for none")

        @classmethod
        def tiny(cls) -> WMSE.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 2), group_size=3, shrinkage=0.1)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        if config.group_size <= self.out_dim:
            raise ValueError(
                f"objective.group_size: {config.group_size} rows cannot be whitened in {self.out_dim} dimensions; "
                "give twice as many rows, or lower objective.projector_dims"
            )
        self.config, self.group_rows = config, config.group_size

    def forward(self, batch: Batch) -> StepOutput:
        """See `w_mse`."""
        representations = self.embed(self.pieces(batch))
        first, second = self.project(representations)
        metrics = {"positive_cosine": positive_cosine(representations)}
        if not self.fills_group(first):
            return uncounted(first + second, representations, **metrics)
        loss = w_mse(
            first,
            second,
            generator=torch.default_generator,
            group_size=self.config.group_size,
            shrinkage=self.config.shrinkage,
            across_processes=self.across,
        )
        return output_of(loss, representations, **metrics)
