"""vq-wav2vec: learn codes from which the next codes can be told (Baevski et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.frame_grid import FrameGrid
from audiossl.losses.step_binary_cross_entropy import step_binary_cross_entropy
from audiossl.nn.gumbel_quantiser import code_perplexity, gumbel_temperature
from audiossl.nn.masking import valid_frames
from audiossl.nn.spread import deviation, spread
from audiossl.objectives._contrastive import check_gumbel_schedule
from audiossl.objectives._masked import random_crop

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.encoders.vq_wav2vec import VQWav2Vec as Encoder

_USED_BY = {"gumbel": ("gumbel_start", "gumbel_end", "gumbel_decay"), "kmeans": ("codebook_weight",)}


class VQWav2Vec(nn.Module):
    """From the context of quantised frames, foresee the quantised frames of the next steps among others of the same utterance.

    Predictors start as torch's linear layers: their weights are spread wider than those of the published transposed convolution, and each step
    has a bias of its own where that has one for all. Our choice.
    """

    encoder_needs: ClassVar[tuple[str, ...]] = ("features", "quantise", "aggregate")
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "code_perplexity")
    collapse_floors: ClassVar[dict[str, float]] = {"prediction_std": 1e-4, "target_std": 1e-4}  # both begin near 0
    needs: tuple[str, ...] = ()
    temperature: Tensor
    moving: Tensor

    @dataclass(frozen=True)
    class Config:
        """Defaults: the published training.

        crop_duration: seconds; longer utterances give a random piece. steps: ahead that are foreseen; the first is as far as the receptive field of a
        frame reaches, 3 frames. num_negatives: per frame, drawn from all others of its utterance (the published draw may hit the frame itself).
        gumbel_start, gumbel_end, gumbel_decay: the temperature of the noise after n updates is max(start * decay^n, end). codebook_weight: of the loss of the k-means quantiser.
        hold_steps: updates in which features and codes stand still and only what foresees them learns, from predictions of 0 on; our variant, 0 as
        published. Before anything is foreseen, the loss falls fastest where all frames become alike, and nothing leads back from there.
        """

        crop_duration: float = 9.375
        steps: int = 12
        num_negatives: int = 10
        gumbel_start: float = 2.0
        gumbel_end: float = 0.5
        gumbel_decay: float = 0.999995
        codebook_weight: float = 1.0
        hold_steps: int = 0

        def __post_init__(self) -> None:
            for name in ("crop_duration", "steps", "num_negatives"):
                if not getattr(self, name) > 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            check_gumbel_schedule(self)
            for name in ("codebook_weight", "hold_steps"):
                if not getattr(self, name) >= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is negative, or no number")

        @classmethod
        def tiny(cls) -> VQWav2Vec.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, steps=3, num_negatives=2)

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self._check_used(encoder.config.quantiser, config)
        grid = FrameGrid.of(encoder)
        self.encoder, self.config = encoder, config
        self.offset = math.ceil(grid.first / grid.stride)
        self.predictors = nn.Linear(encoder.dim, config.steps * encoder.dim)
        if config.hold_steps:  # random ones are worse than none, and take long to unlearn
            nn.init.zeros_(self.predictors.weight)
        self.register_buffer("temperature", torch.tensor(config.gumbel_start))
        self.register_buffer("moving", torch.tensor(0.0 if config.hold_steps else 1.0))
        light = VQViews(config, grid, self.offset)
        self.views, self.batch_views = light.views, light.batch_views

    @classmethod
    def from_data(cls, encoder: Encoder, config: Config, data_dir: Path) -> VQWav2Vec:  # noqa: ARG003 - no label is read
        """Build it; nothing is learnt from the data directory beforehand."""
        return cls(encoder, config)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum binary cross-entropies, 1 + negatives for each frame foreseen, and count these frames, as published.

        The loss of a k-means quantiser is a mean over the frames of an utterance; it counts once for each frame foreseen in it, as published.
        """
        z, lengths = self.encoder.features(batch["waveform"], batch["waveform_lengths"])
        quantised = self.encoder.quantise(z, lengths, temperature=self.temperature)
        # A gradient of zero rather than none, for which processes that train together would wait.
        q = quantised.q.detach() + self.moving * (quantised.q - quantised.q.detach())
        context = self.encoder.aggregate(q, lengths)
        predictions = self.predictors(context).unflatten(2, (self.config.steps, -1))
        found = step_binary_cross_entropy(predictions, q, batch["negatives"], lengths, offset=self.offset)
        codebook = (quantised.loss * found.predictions).sum()
        loss = found.loss.sum() + self.config.codebook_weight * self.moving * codebook
        metrics = self._metrics(context, predictions, quantised, batch["negatives"], lengths, found)
        return StepOutput(loss, found.predictions.sum().float(), metrics)

    def after_step(self, step: int) -> None:
        """Cool Gumbel's noise, and let features and codes go after hold_steps."""
        config = self.config
        self.moving.fill_(float(step >= config.hold_steps))
        self.temperature.fill_(
            gumbel_temperature(step, start=config.gumbel_start, end=config.gumbel_end, decay=config.gumbel_decay)
        )

    @torch.no_grad()
    def _metrics(
        self, context: Tensor, predictions: Tensor, quantised: Any, negatives: Tensor, lengths: Tensor, found: Any
    ) -> dict[str, tuple[Tensor, Tensor]]:
        valid = valid_frames(lengths, context.shape[1])
        codes, frames = quantised.codes[valid], lengths.sum().float()
        least = code_perplexity(codes, self.encoder.config.entries).min()  # of the groups
        decisions = found.decisions.sum().float()
        live = live_negatives(quantised.codes, negatives)[valid]
        return spread(context[valid]) | {
            "accuracy": (found.right.sum().float(), found.predictions.sum().float()),
            "decision_bits": (found.loss.detach().sum() / math.log(2), decisions),
            "codebook_loss": ((quantised.loss.detach() * lengths).sum(), frames),
            "code_perplexity": (least * frames, frames),
            "live_negatives": (live.sum().float(), frames),
            "prediction_std": deviation(predictions[valid].flatten(1)),
            "target_std": deviation(quantised.q[valid]),
            "temperature": (self.temperature * frames, frames),
        }

    @staticmethod
    def _check_used(quantiser: str, config: Config) -> None:
        others = [name for kind, names in _USED_BY.items() if kind != quantiser for name in names]
        for name in others:
            if getattr(config, name) != getattr(VQWav2Vec.Config, name):
                raise ValueError(f"objective.{name}: encoder.quantiser = '{quantiser}' does not use it; leave it out")


def live_negatives(codes: Tensor, negatives: Tensor) -> Tensor:
    """How many negatives of each frame differ from it in a code: (batch, frame). codes: (batch, frame, group); negatives: (batch, frame, negative)."""
    index = negatives.clamp(min=0).flatten(1).unsqueeze(2).expand(-1, -1, codes.shape[2])
    others = codes.gather(1, index).view(*negatives.shape, -1)
    return (others != codes.unsqueeze(2)).any(dim=3).sum(dim=2)


@dataclass(frozen=True)
class VQViews:
    """The work in the loader's workers. offset: frames from a context to the first that it foresees."""

    config: VQWav2Vec.Config
    grid: FrameGrid
    offset: int

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Crop an utterance at any sample, and draw negatives, which belong to one utterance and so not to the batch.

        waveform: (sample,). negatives: (frame, negative) int64, frames other than the own.
        """
        _, waveform = random_crop(utterance, self.config.crop_duration, self.grid, rng)
        frames = self.grid.num_frames(len(waveform))
        if frames <= self.offset:
            raise ValueError(
                f"{utterance.id}: {len(waveform)} samples give {frames} frames, which foresee nothing {self.offset} frames ahead; set data.min_duration"
            )
        negatives = rng.integers(0, frames - 1, (frames, self.config.num_negatives))
        negatives += negatives >= np.arange(frames)[:, None]
        return {"waveform": waveform, "negatives": negatives}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the contract's
        """Nothing concerns the batch as a whole."""
        return batch
