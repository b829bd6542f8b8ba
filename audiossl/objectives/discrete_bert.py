"""Discrete BERT: a masked language model of units (Baevski et al., 2019, Effectiveness of self-supervised pre-training)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiossl.contracts import StepOutput
from audiossl.data.alignments import UnitsCheck
from audiossl.losses.unit_cross_entropy import unit_cross_entropy
from audiossl.nn.spread import spread
from audiossl.objectives._bert import SpanConfig, span_frames
from audiossl.objectives._units import code_health
from audiossl.objectives._unmasked import looked_at, share_right

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.encoders.codes import Codes


class DiscreteBERT(nn.Module):
    """Predict the masked units of an utterance from the others. No audio is read.

    The head is RoBERTa's: a layer, a norm, and the encoder's own embeddings as the rows of the softmax. num_codes: codebook size of the units.
    """

    encoder_needs: ClassVar[tuple[str, ...]] = ("read_codes",)
    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "prediction_perplexity")

    @dataclass(frozen=True)
    class Config(SpanConfig):
        """Masks as published, and what stands in their place as in BERT and RoBERTa.

        labels: name of one file in `units/`. label_rate: of it, Hz. keep_prob, random_prob: shares of the masked frames that keep their unit or get a
        random one; the rest get `mask_emb`. crop_duration: our variant.
        """

        labels: tuple[str, ...] = ("vq_wav2vec",)
        label_rate: float = 100.0
        keep_prob: float = 0.1
        random_prob: float = 0.1

        def __post_init__(self) -> None:
            super().__post_init__()
            if len(self.labels) != 1:
                raise ValueError(f"objective.labels: {list(self.labels)} must be one label set")
            if min(self.keep_prob, self.random_prob) < 0 or self.keep_prob + self.random_prob > 1:
                raise ValueError(
                    f"objective: keep_prob {self.keep_prob} and random_prob {self.random_prob} must be shares of the masked frames"
                )

        @classmethod
        def tiny(cls) -> DiscreteBERT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, mask_std=2.0)

    def __init__(self, encoder: Codes, config: Config, num_codes: int) -> None:
        super().__init__()
        if num_codes > encoder.num_codes:
            raise ValueError(
                f"encoder.num_codes: {encoder.num_codes}, but units/{config.labels[0]} has {num_codes} codes; raise it"
            )
        if encoder.reads.column != f"units/{config.labels[0]}":
            raise ValueError(
                f"encoder.labels: {encoder.config.labels!r}, but objective.labels is {config.labels[0]!r}; make them agree"
            )
        if config.label_rate != encoder.sample_rate:
            raise ValueError(
                f"encoder.rate: {encoder.sample_rate} Hz, objective.label_rate is {config.label_rate:g}; make them agree"
            )
        self.encoder, self.config = encoder, config
        self.needs = (f"units/{config.labels[0]}",)
        self.head = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.GELU(), nn.LayerNorm(encoder.dim))
        self.bias = nn.Parameter(torch.zeros(encoder.num_codes))
        light = DiscreteViews(config, num_codes)
        self.views, self.batch_views = light.views, light.batch_views

    @classmethod
    def from_data(cls, encoder: Codes, config: Config, data_dir: Path) -> DiscreteBERT:
        """Build it for the units of a data directory, whose JSON says their rate and the size of their codebook."""
        card = UnitsCheck(data_dir / "units" / config.labels[0])
        if card.fault:
            raise ValueError(f"{card.card_path}: {card.fault}; make the units with `audiossl units apply`")
        if card.rate != config.label_rate:
            raise ValueError(
                f"{card.card_path}: the units have {card.rate:g} Hz, objective.label_rate is {config.label_rate:g}; make them agree"
            )
        return cls(encoder, config, card.size)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the cross-entropy over masked frames, whatever stands in their place, and count them."""
        output = self.encoder(batch["waveform"], batch["waveform_lengths"], masked=batch["masked"])
        top = output.layers[-1].flatten(0, 1)
        seen = top[batch["masked_frames"]]  # (masked frame, dim)
        targets: Tensor = batch["masked_targets"]
        nats, prediction = unit_cross_entropy(self._logits(seen), targets)
        loss = nats.sum()
        count = torch.full((), len(seen), dtype=torch.float32, device=seen.device)
        health = code_health(nats[:, None], prediction[:, None], targets[:, None], self.encoder.num_codes)
        metrics = spread(seen) | {
            "masked_accuracy": ((prediction == targets).sum().float(), count),
            "masked_bits": (loss.detach() / math.log(2), count),
            **health,
            "unmasked_accuracy": self._unmasked_accuracy(top, batch),
        }
        return StepOutput(loss, count, metrics)

    def _logits(self, frames: Tensor) -> Tensor:
        """What the head says of frames in context, (frame, dim): (frame, code)."""
        return F.linear(self.head(frames), self.encoder.embedding.weight, self.bias).float()

    @torch.no_grad()
    def _unmasked_accuracy(self, top: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        places = looked_at(batch["unmasked_frames"], training=self.training)
        units = batch["waveform"].flatten()[places]  # an unmasked frame is what the encoder is given there
        return share_right(self._logits(top[places]).argmax(dim=1, keepdim=True), units.unsqueeze(1))

    def after_step(self, step: int) -> None:
        """Nothing moves between steps."""


@dataclass(frozen=True)
class DiscreteViews:
    """The work in the loader's workers. num_codes: codebook size of the units."""

    config: DiscreteBERT.Config
    num_codes: int

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Crop the units and mask spans of them.

        waveform: (frame,) int64, what the encoder is given in the place of one. masked: (frame,) bool, True = `mask_emb`. targets: (frame,) int64, the unit
        of a masked frame, -1 elsewhere.
        """
        name = self.config.labels[0]
        units = utterance.columns[f"units/{name}"]
        if not len(units) or not 0 <= units.min() <= units.max() < self.num_codes:
            raise ValueError(
                f"{utterance.id}: units/{name} has no labels or others than its {self.num_codes} codes; apply the units again"
            )
        size = min(len(units), round(self.config.crop_duration * self.config.label_rate))
        start = int(rng.integers(0, len(units) - size + 1))
        units = units[start : start + size]
        chosen = span_frames(size, self.config, rng)
        fate = rng.random(size)
        keep, swap = self.config.keep_prob, self.config.keep_prob + self.config.random_prob
        others = rng.integers(0, self.num_codes, size)
        return {
            "waveform": np.where(chosen & (fate >= keep) & (fate < swap), others, units),
            "masked": chosen & (fate >= swap),
            "targets": np.where(chosen, units, -1),
        }

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the contract's
        """Find the masked frames, so that no device has to: masked_frames, their places in the flattened batch, and masked_targets.

        Also unmasked_frames, the places of the others.
        """
        targets = np.asarray(batch["targets"]).reshape(-1)
        places = np.flatnonzero(targets >= 0)
        kept = {name: value for name, value in batch.items() if not name.startswith("targets")}
        others = np.flatnonzero((targets < 0) & (np.asarray(batch["waveform"]).reshape(-1) >= 0))
        return kept | {"masked_frames": places, "masked_targets": targets[places], "unmasked_frames": others}
