"""SimCLR for speakers: two crops of an utterance find each other among all crops, with a margin if wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from audiossl.losses.nt_xent import nt_xent, nt_xent_all_views, nt_xent_multi_view
from audiossl.objectives._speaker import (
    CropConfig,
    MarginConfig,
    SpeakerObjective,
    output_of,
    positive_cosine,
    projector,
)

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput

_GLOBAL_CROPS = 2


class SimCLR(SpeakerObjective):
    """NT-Xent of two crops and of short ones, if wanted (Chen et al., 2020), symmetric and with margins (Lepage and Dehak, 2023 and 2024).

    Two utterances of one speaker in a batch count as different speakers: nothing tells them apart.
    """

    @dataclass(frozen=True)
    class Config(CropConfig):
        """temperature: 1 / s. symmetric: all crops are anchors. projector_dims: none for the best published figure.

        local_crops: short ones of local_duration s beside the two global ones; half as long in the published code. Symmetric, each
        crop is to find all others of its utterance; otherwise local crops are to find the global ones. positives: of the latter form, the
        `sum` of both positives' losses, as published, or their `mean`.
        """

        temperature: float = 0.03
        symmetric: bool = True
        projector_dims: tuple[int, ...] = ()
        margin: MarginConfig = field(default_factory=MarginConfig)
        local_duration: float = 1.0
        local_crops: int = 0
        positives: Literal["mean", "sum"] = "sum"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.local_duration <= 0:
                raise ValueError(f"objective.local_duration: {self.local_duration} s is not positive")
            if self.local_crops < 0:
                raise ValueError(f"objective.local_crops: {self.local_crops} is negative; 0 is none")
            if self.positives != "sum" and (self.symmetric or not self.local_crops):
                raise ValueError(
                    f"objective.positives: {self.positives!r} is for local_crops with symmetric = false; leave it out, or set these"
                )

        @property
        def durations(self) -> tuple[float, ...]:
            """Of all crops, the global ones first, s."""
            return (self.crop_duration,) * _GLOBAL_CROPS + (self.local_duration,) * self.local_crops

        @classmethod
        def tiny(cls) -> SimCLR.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), margin=MarginConfig("additive", 0.1, ramp_steps=2))

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config, config.durations)
        self.config = config
        self.projector = projector(encoder.embedding_dim, config.projector_dims)
        self.margin = config.margin.build(config.temperature)

    def forward(self, batch: Batch) -> StepOutput:
        """See `nt_xent`. accuracy: share of global crops whose nearest other one of this process's batch is their twin."""
        pieces = self.pieces(batch)
        lengths = (pieces[:_GLOBAL_CROPS], pieces[_GLOBAL_CROPS:])
        embeddings = torch.cat([self.embed(crops) for crops in lengths if crops])
        views = self.per_view(self.projector, embeddings)
        twins = _twins(views[:_GLOBAL_CROPS].flatten(0, 1))
        return output_of(self._loss(views), embeddings, accuracy=twins, positive_cosine=positive_cosine(embeddings))

    def _loss(self, views: torch.Tensor) -> torch.Tensor:
        """views: (view, batch, dim), the global crops first."""
        config, long, short = self.config, views[:_GLOBAL_CROPS], views[_GLOBAL_CROPS:]
        options: dict[str, Any] = {
            "temperature": config.temperature,
            "margin": self.margin,
            "across_processes": self.across,
        }
        if not len(short):
            return nt_xent(*long, symmetric=config.symmetric, **options)
        if config.symmetric:
            return nt_xent_all_views(views, **options)
        return nt_xent_multi_view(short, long, positives=config.positives, **options)


@torch.no_grad()
def _twins(crops: torch.Tensor) -> torch.Tensor:
    """crops: (2 batch, dim), first views before second ones."""
    unit = torch.nn.functional.normalize(crops.float(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    twin = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return (cosines.argmax(1) == twin).float().mean()
