"""LIM for speakers: two pieces of one utterance are told from pieces of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.nn import functional as F

from audiossl.losses.lim import lim, other_utterances
from audiossl.objectives._speaker import CropConfig, SpeakerObjective, output_of, positive_cosine

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class LIM(SpeakerObjective):
    """Local info max (Ravanelli and Bengio, 2019) of two crops, with the cosine of the representations in place of a trained discriminator.

    The other utterance is drawn for each anchor from those of all processes and is never its own.
    """

    @dataclass(frozen=True)
    class Config(CropConfig):
        """bound: on the mutual information, see `lim`; the default is that of Lepage and Dehak's code, which has no projector."""

        bound: Literal["bce", "mine", "nce"] = "bce"

        @classmethod
        def tiny(cls) -> LIM.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3)

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config

    def forward(self, batch: Batch) -> StepOutput:
        """See `lim`. accuracy: share of anchors that are nearer to their own utterance than to the other one."""
        embeddings = self.embed(self.pieces(batch))
        first, second = embeddings
        other = other_utterances(second, generator=torch.default_generator, across_processes=self.across)
        loss = lim(first, second, other, bound=self.config.bound, across_processes=self.across)
        with torch.no_grad():
            nearer = F.cosine_similarity(first.float(), second.float()) > F.cosine_similarity(
                first.float(), other.float()
            )
        metrics = {"accuracy": nearer.float().mean(), "positive_cosine": positive_cosine(embeddings)}
        return output_of(loss, embeddings, **metrics)
