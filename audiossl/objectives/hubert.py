"""HuBERT: predict the unit of each masked frame (Hsu et al., 2021)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.alignments import labels_fit
from audiossl.losses.codeword_cross_entropy import codeword_cross_entropy
from audiossl.nn.spread import spread
from audiossl.objectives._masked import MaskConfig, MaskedObjective, MaskedViews

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import SSLEncoder


class HuBERT(MaskedObjective):
    """Masked prediction of units: an encoder, one projection and one table of codewords per label set.

    num_codes: codebook size of each label set.
    """

    @dataclass(frozen=True)
    class Config(MaskConfig):
        """The published base model, first iteration.

        labels: names of files in `units/`. label_rate: of all of them, Hz. special_rows: unused codewords before the first, so that label k is row k + special_rows; published heads have 4.
        """

        labels: tuple[str, ...] = ("mfcc_km100",)
        label_rate: float = 100.0
        mask_prob: float = 0.8
        final_dim: int = 256
        temperature: float = 0.1
        masked_weight: float = 1.0
        unmasked_weight: float = 0.0
        penalty_weight: float = 10.0
        special_rows: int = 4

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.labels or len(set(self.labels)) < len(self.labels):
                raise ValueError(f"objective.labels: {list(self.labels)} must name at least one label set, each once")
            for name in ("label_rate", "final_dim", "temperature", "masked_weight"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            for name in ("unmasked_weight", "penalty_weight", "special_rows"):
                if getattr(self, name) < 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is negative")

        @classmethod
        def tiny(cls) -> HuBERT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, final_dim=8, unmasked_weight=0.5, special_rows=1)

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy",)

    def __init__(self, encoder: SSLEncoder, config: Config, num_codes: tuple[int, ...]) -> None:
        assert len(num_codes) == len(config.labels)
        self.num_codes = num_codes
        super().__init__(encoder, config)
        self.config = config
        self.needs = tuple(f"units/{label}" for label in config.labels)
        self.projections = nn.ModuleList(nn.Linear(encoder.dim, config.final_dim) for _ in num_codes)
        self.codewords = nn.ParameterList(
            nn.init.normal_(torch.empty(codes + config.special_rows, config.final_dim)) for codes in num_codes
        )

    def light_views(self, config: Config, grid: FrameGrid, *, normalise: bool) -> HuBERTViews:
        """Return views with labels."""
        return HuBERTViews(config, grid, normalise, self.num_codes)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, data_dir: Path) -> HuBERT:
        """Build it for the units of a data directory, whose JSON says their rate and the size of their codebook."""
        sizes = tuple(
            _codebook_size(data_dir / "units" / f"{label}.json", config.label_rate) for label in config.labels
        )
        return cls(encoder, config, sizes)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames (section II-B, eq. 1 to 3) and over label sets, and count the frames.

        L = masked_weight CE(masked) + unmasked_weight CE(unmasked) + penalty_weight N mean(z^2); unmasked frames are not even
        projected when their weight is 0. N counts the frames that enter the loss, once for all label sets.
        """
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        masked: Tensor = batch["masked"]
        assert masked.shape == local.z.shape[:2], (masked.shape, local.z.shape)
        top = self.encoder.contextualise(local.z, local.lengths, masked=masked).layers[-1].flatten(0, 1)
        seen = top[batch["masked_frames"]]  # (masked frame, dim)
        metrics = spread(seen)
        nats = self._cross_entropy(seen, batch["masked_targets"], metrics, "masked")
        loss, count = self.config.masked_weight * nats, len(seen)
        if self.config.unmasked_weight:
            seen = top[batch["unmasked_frames"]]
            loss = loss + self.config.unmasked_weight * self._cross_entropy(
                seen, batch["unmasked_targets"], metrics, "unmasked"
            )
            count += len(seen)
        loss = loss + self.config.penalty_weight * count * local.penalty.float()
        total = torch.full((), count, dtype=torch.float32, device=top.device)
        metrics["penalty"] = (local.penalty.detach().float() * total, total)
        metrics["loss_bits"] = (loss.detach() / math.log(2), total)
        return StepOutput(loss, total, metrics)

    def _cross_entropy(
        self, frames: Tensor, targets: Tensor, metrics: dict[str, tuple[Tensor, Tensor]], which: str
    ) -> Tensor:
        """Sum of the cross-entropy over label sets. frames: (frame, dim). targets: (frame, label set)."""
        total = frames.new_zeros((), dtype=torch.float32)
        right, predicted, wanted = total.clone(), total.clone(), total.clone()
        heads = zip(self.projections, self.codewords, targets.unbind(1), strict=True)
        for projection, codewords, label in heads:
            row = label + self.config.special_rows
            result = codeword_cross_entropy(projection(frames), codewords, row, temperature=self.config.temperature)
            total = total + result.loss.sum()
            right += (result.prediction == row).sum()
            predicted += _perplexity(result.prediction, len(codewords))
            wanted += _perplexity(row, len(codewords))
        count = torch.full((), targets.numel(), dtype=torch.float32, device=frames.device)
        metrics[f"{which}_accuracy"] = (right, count)
        metrics[f"{which}_bits"] = (total.detach() / math.log(2), count)
        if which == "masked":  # perplexities of a batch are averaged over batches by their frames
            metrics["prediction_perplexity"] = (predicted * len(frames), count)
            metrics["target_perplexity"] = (wanted * len(frames), count)
        return total


@dataclass(frozen=True)
class HuBERTViews(MaskedViews):
    """What HuBERT does in the loader's workers."""

    config: HuBERT.Config
    num_codes: tuple[int, ...]

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Crop, and align the labels. waveform: (sample,); labels: (frame, label set) int64, -1 where there is none."""
        start, waveform = self.crop(utterance, rng)
        labels = [
            self.grid.align(
                self._checked(utterance, name, codes),
                start=start,
                num_samples=len(waveform),
                label_rate=self.config.label_rate,
            )
            for name, codes in zip(self.config.labels, self.num_codes, strict=True)
        ]
        return {"waveform": waveform, "labels": np.stack(labels, axis=1)}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask spans and find the frames that the loss is about.

        Adds masked: (batch, frame) bool; masked_frames: (masked frame,) int64, their places in the flattened batch; and masked_targets:
        (masked frame, label set) int64. Only frames that have a label in every set count. Where unmasked frames weigh something,
        also unmasked_frames and unmasked_targets.
        """
        labels = np.asarray(batch["labels"])
        masked = self.mask(np.asarray(batch["labels_lengths"]), rng)
        labelled = (labels >= 0).all(axis=2)
        chosen = {"masked": masked & labelled}
        if self.config.unmasked_weight:
            chosen["unmasked"] = ~masked & labelled
        made: Batch = {"masked": masked}
        for which, frames in chosen.items():
            made[f"{which}_frames"] = np.flatnonzero(frames)
            made[f"{which}_targets"] = labels[frames]
        return {name: value for name, value in batch.items() if not name.startswith("labels")} | made

    def _checked(self, utterance: Utterance, name: str, codes: int) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = utterance.columns[f"units/{name}"]
        duration = len(utterance.waveform) / self.grid.sample_rate
        if not labels_fit(len(labels), duration, self.config.label_rate):
            expected = duration * self.config.label_rate
            raise ValueError(
                f"{utterance.id}: units/{name} has {len(labels)} labels where {self.config.label_rate:g} Hz give {expected:.0f}; "
                "correct objective.label_rate or apply the units again"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < codes:
            raise ValueError(
                f"{utterance.id}: units/{name} has labels from {labels.min()} to {labels.max()}, but its codebook {codes} codes; "
                "apply the units again"
            )
        return labels


def _codebook_size(path: Path, label_rate: float) -> int:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        size, rate = int(facts["codebook_size"]), float(facts["rate"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; make the units with `audiossl units apply`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: does not tell codebook_size and rate ({error}); apply the units again") from error
    if rate != label_rate:
        raise ValueError(f"{path}: the units have {rate:g} Hz, objective.label_rate is {label_rate:g}; make them agree")
    return size


def _perplexity(codes: Tensor, size: int) -> Tensor:
    """Perplexity of the histogram of some codes: 1 for a single code, `size` for all alike. codes: (frame,) int64."""
    share = torch.zeros(size, device=codes.device).index_add_(0, codes, torch.ones(len(codes), device=codes.device))
    share /= max(1, len(codes))
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()
