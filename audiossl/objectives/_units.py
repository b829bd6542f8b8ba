"""What objectives share that predict the units of masked frames: aligned labels, heads at some layers, and what is logged."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from audiossl.contracts import StepOutput
from audiossl.data.alignments import labels_fit
from audiossl.nn.spread import spread
from audiossl.objectives._masked import MaskConfig, MaskedObjective, MaskedViews
from audiossl.objectives._unmasked import looked_at, share_right

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import SSLEncoder

    Metrics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class UnitConfig(MaskConfig):
    """labels: names of files in `units/`. label_rate: of all of them, Hz. masked_weight, unmasked_weight: of the cross-entropies.

    special_rows: unused classes before the first, so that label k is class k + special_rows. penalty_weight: of the mean square of the frontend's output.
    position_noise: variance of FlexPredict's noise at masked frames (Bar et al., 2024, see `nn.position_noise`), in training alone; 0 is none, and a
    convolution as position in the place of sinusoids our variant.
    """

    labels: tuple[str, ...] = ("mfcc_km100",)
    label_rate: float = 100.0
    mask_prob: float = 0.8
    temperature: float = 0.1
    masked_weight: float = 1.0
    unmasked_weight: float = 0.0
    penalty_weight: float = 0.0
    special_rows: int = 0
    position_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"objective.labels: {list(self.labels)} must name at least one label set, each once")
        for name in ("label_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
        for name in ("masked_weight", "unmasked_weight", "penalty_weight", "special_rows", "position_noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is negative")
        if not self.masked_weight + self.unmasked_weight:
            raise ValueError("objective.masked_weight: it and unmasked_weight are both 0; give one of them")


@dataclass(frozen=True)
class UnitViews(MaskedViews):
    """The work in the loader's workers. num_codes: codebook size of each label set."""

    config: UnitConfig
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
        (masked frame, label set) int64; likewise unmasked_frames and unmasked_targets. Only frames that have a label in every set count.
        """
        labels = np.asarray(batch["labels"])
        masked = self.mask(np.asarray(batch["labels_lengths"]), rng)
        labelled = (labels >= 0).all(axis=2)
        chosen = {"masked": masked & labelled, "unmasked": ~masked & labelled}
        made: Batch = {"masked": masked}
        for which, frames in chosen.items():
            made[f"{which}_frames"] = np.flatnonzero(frames)
            made[f"{which}_targets"] = labels[frames]
        return {name: value for name, value in batch.items() if not name.startswith("labels")} | made

    def _checked(self, utterance: Utterance, name: str, codes: int) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = utterance.columns[f"units/{name}"]
        duration = utterance.duration
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


class UnitObjective(MaskedObjective):
    """The base: masked prediction of units. A subclass says its `Config`, its heads and their loss, `cross_entropy`.

    num_codes: codebook size of each label set. layers: those that are predicted from, the last one at the end; indices of what the
    encoder gives.
    """

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy",)

    def __init__(
        self, encoder: SSLEncoder, config: UnitConfig, num_codes: tuple[int, ...], layers: tuple[int, ...] = (-1,)
    ) -> None:
        assert len(num_codes) == len(config.labels)
        self.num_codes = num_codes
        super().__init__(encoder, config)
        self.config = config
        self.layers = layers
        self.classes = tuple(codes + config.special_rows for codes in num_codes)
        self.needs = tuple(f"units/{label}" for label in config.labels)

    def light_views(self, config: UnitConfig, grid: FrameGrid, *, normalise: bool) -> UnitViews:
        """Return views with labels."""
        return UnitViews(config, grid, normalise, self.num_codes)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Any, data_dir: Path) -> Self:
        """Build it for the units of a data directory, whose JSON says their rate and the size of their codebook."""
        sizes = tuple(
            _codebook_size(data_dir / "units" / f"{label}.json", config.label_rate) for label in config.labels
        )
        return cls(encoder, config, sizes)

    @abstractmethod
    def cross_entropy(self, head: int, label_set: int, frames: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each frame in nats, and the class that is predicted: (frame,) both.

        head: which of the predicted layers. label_set: which of the labels. frames: (frame, dim). classes: (frame,) int64, the right ones.
        """

    def further_loss(self, layers: list[Tensor], batch: Batch, metrics: Metrics) -> Tensor | float:  # noqa: ARG002 - a subclass may have one
        """Return what else a subclass learns from, a sum over masked frames of which `forward` adds N times the mean, and log how it fares.

        layers: what the encoder gives.
        """
        return 0.0

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames and label sets, and count the frames (Hsu et al., 2021, section II-B, eq. 1 to 3).

        L = masked_weight CE(masked) + unmasked_weight CE(unmasked) + penalty_weight N mean(z^2) + N mean(further_loss), with the mean of the
        cross-entropies over the predicted layers; of unmasked frames whose weight is 0 only the accuracy is looked at, see `_unmasked`. N counts the
        frames whose weight is positive, once for all label sets.
        """
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        masked: Tensor = batch["masked"]
        assert masked.shape == local.z.shape[:2], (masked.shape, local.z.shape)
        noise = self.config.position_noise if self.training else 0.0
        outputs = self.encoder.contextualise(local.z, local.lengths, masked=masked, position_noise=noise).layers
        tops = [outputs[layer].flatten(0, 1) for layer in self.layers]
        metrics = spread(tops[-1][batch["masked_frames"]])
        nats, count = self._at(tops, batch, metrics, "masked")
        loss, count = self.config.masked_weight * nats, count if self.config.masked_weight else 0
        if self.config.unmasked_weight:
            nats, more = self._at(tops, batch, metrics, "unmasked")
            loss, count = loss + self.config.unmasked_weight * nats, count + more
        else:
            metrics["unmasked_accuracy"] = self._unmasked_accuracy(tops[-1], batch)
        loss = loss + self.config.penalty_weight * count * local.penalty.float()
        further = self.further_loss(outputs, batch, metrics)
        loss = loss + count / max(1, len(batch["masked_frames"])) * further
        total = torch.full((), count, dtype=torch.float32, device=loss.device)
        metrics["penalty"] = (local.penalty.detach().float() * total, total)
        metrics["loss_bits"] = (loss.detach() / math.log(2), total)
        return StepOutput(loss, total, metrics)

    @torch.no_grad()
    def _unmasked_accuracy(self, top: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Accuracy at the last of the predicted layers, mean over label sets. top: (frame, dim), of the flattened batch."""
        frames = top[looked_at(batch["unmasked_frames"], training=self.training)]
        rows = looked_at(batch["unmasked_targets"], training=self.training) + self.config.special_rows
        last = len(self.layers) - 1
        predicted = [
            self.cross_entropy(last, label_set, frames, row)[1] for label_set, row in enumerate(rows.unbind(1))
        ]
        return share_right(torch.stack(predicted, dim=1), rows)

    def _at(self, tops: list[Tensor], batch: Batch, metrics: Metrics, which: str) -> tuple[Tensor, int]:
        """Sum of the cross-entropy at masked or unmasked frames, mean over layers, and how many frames there are."""
        places, targets = batch[f"{which}_frames"], batch[f"{which}_targets"]
        last = len(tops) - 1
        nats = [
            self._cross_entropy(head, top[places], targets, metrics, which if head == last else f"{which}_{head}")
            for head, top in enumerate(tops)
        ]
        return torch.stack(nats).mean(), len(places)

    def _cross_entropy(self, head: int, frames: Tensor, targets: Tensor, metrics: Metrics, which: str) -> Tensor:
        """Sum of the cross-entropy over label sets. frames: (frame, dim). targets: (frame, label set)."""
        total = frames.new_zeros((), dtype=torch.float32)
        right, predicted, apart, wanted = total.clone(), total.clone(), total.clone(), []
        for label_set, label in enumerate(targets.unbind(1)):
            row, size = label + self.config.special_rows, self.classes[label_set]
            loss, prediction = self.cross_entropy(head, label_set, frames, row)
            total = total + loss.sum()
            right += (prediction == row).sum()
            predicted += histogram_perplexity(prediction, size)
            apart += prediction_spread(loss.unsqueeze(1), row.unsqueeze(1), size)
            wanted.append(histogram_perplexity(row, size))
        count = torch.full((), targets.numel(), dtype=torch.float32, device=frames.device)
        metrics[f"{which}_accuracy"] = (right, count)
        metrics[f"{which}_bits"] = (total.detach() / math.log(2), count)
        if which == "masked":  # perplexities of a batch are averaged over batches by their frames
            metrics["prediction_perplexity"] = (predicted * len(frames), count)
            metrics["prediction_spread"] = (apart * len(frames), count)
            metrics["target_perplexity"] = (torch.stack(wanted).min() * count, count)
        return total


@torch.no_grad()
def code_health(nats: Tensor, predicted: Tensor, codes: Tensor, size: int) -> Metrics:
    """What must not collapse where codes are predicted: means over books, but of targets the perplexity of the book that uses the fewest codes.

    nats: (frame, book), the cross-entropy. predicted, codes: (frame, book) int64, below `size`.
    """
    count = torch.full((), len(codes), dtype=torch.float32, device=codes.device)
    named, wanted = (
        torch.stack([histogram_perplexity(book, size) for book in values.unbind(1)]) for values in (predicted, codes)
    )
    return {
        "prediction_perplexity": (named.mean() * count, count),
        "prediction_spread": (prediction_spread(nats, codes, size) * count, count),
        "target_perplexity": (wanted.min() * count, count),
    }


def histogram_perplexity(codes: Tensor, size: int) -> Tensor:
    """Perplexity of the histogram of some codes: 1 for a single code, `size` for all alike. codes: (frame,) int64."""
    share = _histogram(codes, size) / max(1, len(codes))
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


@torch.no_grad()
def prediction_spread(nats: Tensor, classes: Tensor, size: int) -> Tensor:
    """Standard deviation of the cross-entropy over frames of the commonest class, mean over books: 0 where no prediction depends on its frame.

    nats: (frame, book). classes: (frame, book) int64, the right ones, below `size`. Returns a scalar, in nats.
    """
    commonest = torch.stack([_histogram(book, size).argmax() for book in classes.unbind(1)])
    same = (classes == commonest).float()
    count = same.sum(0).clamp(min=1)
    centred = nats.float() - (nats * same).sum(0) / count
    return ((centred.square() * same).sum(0) / count).sqrt().mean()


def _histogram(codes: Tensor, size: int) -> Tensor:
    """How many frames have each code: (code,) float32. codes: (frame,) int64."""
    return torch.zeros(size, device=codes.device).index_add_(0, codes, torch.ones(len(codes), device=codes.device))


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
