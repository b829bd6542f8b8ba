"""SSPS: SimCLR whose positives, late in training, are other utterances that probably have the same speaker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from audiossl.data.manifest import Manifest
from audiossl.losses.nt_xent import nt_xent
from audiossl.objectives._positives import CLEAN, PositiveSampler, SamplingConfig, embed_clean, sampling_views
from audiossl.objectives._speaker import (
    CropConfig,
    CropViews,
    MarginConfig,
    SpeakerObjective,
    output_of,
    positive_cosine,
    projector,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class SSPS(SpeakerObjective):
    """Self-supervised positive sampling on SimCLR (Lepage and Dehak, 2025; arXiv 2505.14561); on DINO it is `ssps_dino`.

    Two crops of a recording share its channel, which NT-Xent therefore learns. From `start_epoch` on the second crop's embedding gives
    way to one of an utterance from a cluster near that of the anchor, drawn from a queue of late ones and without gradient. Where there
    is none, the crop itself stays. See `PositiveSampler`, also for what differs from the published code.
    """

    @dataclass(frozen=True)
    class Config(SamplingConfig, CropConfig):
        """The published defaults on VoxCeleb2 (sslsv): 2.57 % EER, of 6.30 % without it, not rerun here. No projector.

        start_epoch: 80 of 100. temperature ... margin: those of SimCLR.
        """

        temperature: float = 0.03
        symmetric: bool = True
        projector_dims: tuple[int, ...] = ()
        margin: MarginConfig = field(default_factory=MarginConfig)

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_sampling()

        @classmethod
        def tiny(cls) -> SSPS.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = MarginConfig("additive", 0.1, ramp_steps=2)
            small = cls(crop_duration=0.3, projector_dims=(8, 8), margin=margin)
            return replace(small, num_clusters=3, iterations=2, queue_size=9, start_epoch=1, clean_duration=0.4)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine", "replaced")

    def __init__(self, encoder: SpeakerEncoder, config: Config, ids: Sequence[str]) -> None:
        super().__init__(encoder, config)
        self.config = config
        light = sampling_views(CropViews((config.crop_duration,) * 2, config.crops, encoder.sample_rate), ids, config)
        self.views, self.batch_views = light.views, light.batch_views
        self.projector = projector(encoder.embedding_dim, config.projector_dims)
        self.margin = config.margin.build(config.temperature)
        width = (encoder.embedding_dim, *config.projector_dims)[-1]
        self.sampler = PositiveSampler(config, len(ids), dim=encoder.embedding_dim, width=width)

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> SSPS:
        """Build it with a place in memory for each utterance of a data directory."""
        return cls(encoder, config, Manifest.open(data_dir).ids)

    def forward(self, batch: Batch) -> StepOutput:
        """See `nt_xent`. replaced: share of utterances with a positive of another utterance. sampled_cosine: of anchors and positives as used.

        positive_cosine: of the two crops of an utterance, as in SimCLR. Evaluation replaces and remembers nothing.
        """
        embeddings = self.embed(self.pieces(batch))
        first, second = self.per_view(self.projector, embeddings)
        replaced, positives = torch.zeros_like(batch["index"], dtype=torch.bool), second
        if self.training:
            sampled, replaced = self.sampler.sample(batch["index"])
            positives = torch.where(replaced.unsqueeze(1), sampled.to(second), second)
        loss = nt_xent(
            first,
            positives,
            temperature=self.config.temperature,
            symmetric=self.config.symmetric,
            margin=self.margin,
            across_processes=self.across,
        )
        if self.training:
            clustered = embed_clean(self.encoder, batch[CLEAN]) if self.sampler.wants_clean else embeddings.detach()
            self.sampler.remember(clustered, second.detach(), batch["index"], across=self.across)
        metrics = {
            "positive_cosine": positive_cosine(embeddings),
            "sampled_cosine": positive_cosine(torch.stack([first, positives])),
            "replaced": replaced.float().mean(),
        }
        return output_of(loss, embeddings, **metrics)

    def after_step(self, step: int) -> None:
        """Let the margin grow; cluster where an epoch is over."""
        super().after_step(step)
        self.sampler.after_step(across=self.across)
