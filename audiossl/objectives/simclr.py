"""SimCLR for speakers: two crops of an utterance find each other among all crops, with a margin if wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from audiossl.losses.nt_xent import nt_xent
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


class SimCLR(SpeakerObjective):
    """NT-Xent of two crops (Chen et al., 2020), symmetric and with margins (Lepage and Dehak, 2023 and 2024).

    Two utterances of one speaker in a batch count as different speakers: nothing tells them apart.
    """

    @dataclass(frozen=True)
    class Config(CropConfig):
        """temperature: 1 / s. symmetric: all crops are anchors. projector_dims: none for the best published figure."""

        temperature: float = 0.03
        symmetric: bool = True
        projector_dims: tuple[int, ...] = ()
        margin: MarginConfig = field(default_factory=MarginConfig)

        @classmethod
        def tiny(cls) -> SimCLR.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), margin=MarginConfig("additive", 0.1, ramp_steps=2))

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.projector = projector(encoder.embedding_dim, config.projector_dims)
        self.margin = config.margin.build()

    def forward(self, batch: Batch) -> StepOutput:
        """See `nt_xent`. accuracy: share of crops whose nearest other crop of this process's batch is their twin."""
        embeddings = self.embed(self.pieces(batch))
        first, second = self.projector(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
        loss = nt_xent(
            first,
            second,
            temperature=self.config.temperature,
            symmetric=self.config.symmetric,
            margin=self.margin,
            across_processes=self.across,
        )
        metrics = {"accuracy": _twins(torch.cat([first, second])), "positive_cosine": positive_cosine(embeddings)}
        return output_of(loss, embeddings, **metrics)


@torch.no_grad()
def _twins(crops: torch.Tensor) -> torch.Tensor:
    """crops: (2 batch, dim), first views before second ones."""
    unit = torch.nn.functional.normalize(crops.float(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    twin = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return (cosines.argmax(1) == twin).float().mean()
