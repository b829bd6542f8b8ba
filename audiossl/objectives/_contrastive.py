"""What wav2vec 2.0 and its relatives share: sampled negatives, Gumbel targets, two projections, and what is added up and logged."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audiossl.contracts import StepOutput
from audiossl.losses.codebook_diversity import codebook_diversity
from audiossl.losses.wav2vec2_contrastive import wav2vec2_contrastive
from audiossl.nn.gumbel_quantiser import GumbelQuantiser, code_perplexity, gumbel_temperature, perplexity
from audiossl.nn.spread import deviation, spread
from audiossl.objectives._masked import MaskConfig, MaskedObjective, MaskedViews

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.losses._sampled import ContrastiveLoss
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder

_BITS = 63
"""Of int64 without its sign, in which `GumbelQuantiser.identity` numbers the combinations of codes."""


@dataclass(frozen=True)
class ContrastiveConfig(MaskConfig):
    """The published base model.

    final_dim: of context and targets where they are compared. num_negatives: drawn for each masked frame. temperature: of the cosines.
    groups, entries: of the quantiser. gumbel_start, gumbel_end, gumbel_decay: its temperature after n steps is max(start * decay^n, end).
    context_hidden_layers, target_hidden_layers, quantiser_hidden_layers: of the two projections and of the network that gives the
    quantiser's logits, hidden_factor times as wide as their input; 0 is the published linear map.
    """

    final_dim: int = 256
    num_negatives: int = 100
    temperature: float = 0.1
    groups: int = 2
    entries: int = 320
    gumbel_start: float = 2.0
    gumbel_end: float = 0.5
    gumbel_decay: float = 0.999995
    context_hidden_layers: int = 0
    target_hidden_layers: int = 0
    quantiser_hidden_layers: int = 0
    hidden_factor: int = 2
    diversity_weight: float = 0.1
    penalty_weight: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_negatives", "temperature", "hidden_factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
        layers = ("context_hidden_layers", "target_hidden_layers", "quantiser_hidden_layers")
        for name in (*layers, "penalty_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is negative")
        check_gumbel(self)


def check_gumbel_schedule(config: Any) -> None:
    """Raise ValueError for temperatures of Gumbel noise that mean nothing, or that rise."""
    for name in ("gumbel_start", "gumbel_end"):
        if not getattr(config, name) > 0:
            raise ValueError(f"objective.{name}: {getattr(config, name)} is not positive")
    if not 0 < config.gumbel_decay <= 1:
        raise ValueError(f"objective.gumbel_decay: {config.gumbel_decay} is not above 0 and at most 1")


def check_gumbel(config: Any) -> None:
    """Raise ValueError for options of a Gumbel quantiser, and for a weight of its diversity, that mean nothing."""
    check_gumbel_schedule(config)
    for name in ("final_dim", "groups", "entries"):
        if not getattr(config, name) > 0:
            raise ValueError(f"objective.{name}: {getattr(config, name)} is not positive")
    if config.final_dim % config.groups:
        raise ValueError(f"objective.final_dim: {config.final_dim} is no multiple of the {config.groups} groups")
    if not config.diversity_weight >= 0:
        raise ValueError(f"objective.diversity_weight: {config.diversity_weight} is negative, or no number")
    if config.groups * math.log2(config.entries) >= _BITS:
        raise ValueError(
            f"objective.groups: {config.groups} groups of {config.entries} entries have 2^{_BITS} combinations or more; give fewer of either"
        )


@dataclass(frozen=True)
class ContrastiveViews(MaskedViews):
    """The work in the loader's workers: crops, masks and negatives."""

    config: ContrastiveConfig

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask spans, and draw the negatives of each masked frame.

        Adds masked and masked_frames, see `MaskedViews`. The s-th masked frame of utterance u has the slot s. negatives: (utterance, slot,
        negative) int64, slots of the same utterance. slots: (masked frame,) int64, its place in the flattened (utterance, slot).
        """
        batch = super().batch_views(batch, rng)
        counts = np.asarray(batch["masked"]).sum(axis=1)
        return batch | {"slots": slots_of(counts), "negatives": draw_negatives(counts, self.config.num_negatives, rng)}


@dataclass(frozen=True)
class PairedViews(ContrastiveViews):
    """Two views of the same crop: as it was recorded, and as the loader's `augment` changes it."""

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """waveform, augmented: (sample,) both, aligned."""
        twin = copy.deepcopy(rng)  # cuts both at the same place
        start, clean = self.crop_whole(utterance.clean, rng)
        other, augmented = self.crop_whole(utterance, twin)
        if start != other or len(clean) != len(augmented):
            raise ValueError(
                f"{utterance.id}: {len(utterance.clean.waveform)} samples are {len(utterance.waveform)} when augmented, so that frames do "
                "not match; set data.augment.speed_probability to 0"
            )
        return {"waveform": clean, "augmented": augmented}


class Targets(NamedTuple):
    """vectors: (frame, final_dim). identity: (frame,) int64, equal where the codes are. codes, soft_probs: see `Quantised`."""

    vectors: Tensor
    identity: Tensor
    codes: Tensor
    soft_probs: Tensor


class ContrastiveObjective(MaskedObjective):
    """The base: an encoder, the quantiser of its local features, and projections of both. A subclass says its `Config` and `forward`.

    The codebook's diversity is that of a batch, as published, and so are the negatives that are drawn.
    """

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "target_perplexity")
    additive = False
    gumbel_temperature: Tensor

    def __init__(self, encoder: SSLEncoder, config: ContrastiveConfig) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.quantiser = GumbelQuantiser(
            encoder.feature_dim,
            groups=config.groups,
            entries=config.entries,
            code_dim=config.final_dim,
            hidden_layers=config.quantiser_hidden_layers,
            hidden_factor=config.hidden_factor,
        )
        self.project_context = _head(encoder.dim, config, config.context_hidden_layers)
        self.project_target = _head(config.final_dim, config, config.target_hidden_layers)
        self.register_buffer("gumbel_temperature", torch.tensor(config.gumbel_start))

    def light_views(self, config: ContrastiveConfig, grid: FrameGrid, *, normalise: bool) -> ContrastiveViews:
        """Return views with negatives."""
        return ContrastiveViews(config, grid, normalise)

    def after_step(self, step: int) -> None:
        """Cool the Gumbel softmax."""
        config = self.config
        self.gumbel_temperature.fill_(
            gumbel_temperature(step, start=config.gumbel_start, end=config.gumbel_end, decay=config.gumbel_decay)
        )

    def quantise(self, z: Tensor, batch: Batch) -> Targets:
        """Targets of the masked frames. z: (utterance, frame, feature_dim)."""
        features = self.encoder.dropout_features(z.flatten(0, 1)[batch["masked_frames"]])
        q, codes, soft_probs = self.quantiser(features, self.gumbel_temperature)
        return Targets(self.project_target(q), self.quantiser.identity(codes), codes, soft_probs)

    def contrast(self, heard: LocalFeatures, targets: Targets, penalty: Tensor, batch: Batch) -> StepOutput:
        """Sum wav2vec 2.0's loss over masked frames, and count them. heard: what the context is of; targets, penalty: see `step_output`."""
        output = self.encoder.contextualise(heard.z, heard.lengths, masked=batch["masked"])
        seen = output.layers[-1].flatten(0, 1)[batch["masked_frames"]]
        context = self.project_context(seen)
        found = wav2vec2_contrastive(
            context,
            targets.vectors,
            batch["negatives"],
            batch["slots"],
            identity=targets.identity,
            temperature=self.config.temperature,
        )
        return self.step_output(found.loss.sum(), found, seen, context, targets, penalty)

    def step_output(
        self,
        nats: Tensor,
        found: ContrastiveLoss,
        seen: Tensor,
        context: Tensor,
        targets: Targets,
        penalty: Tensor,
    ) -> StepOutput:
        """Add the batch's own terms, as often as there are masked frames, and say how the batch fared.

        nats: scalar, the contrastive part of the loss, a sum. found: of which accuracy and live negatives are told. seen: (frame, dim), the
        encoder's masked frames. context: (frame, final_dim), their projections. penalty: scalar, mean square of the features.
        """
        count = torch.full((), len(seen), dtype=torch.float32, device=seen.device)
        diversity = codebook_diversity(targets.soft_probs)
        loss = nats + count * (self.config.diversity_weight * diversity + self.config.penalty_weight * penalty.float())
        soft = targets.soft_probs.detach().sum(0) / max(len(seen), 1)
        means = {
            "diversity": diversity,
            "penalty": penalty,
            "target_perplexity": code_perplexity(targets.codes, self.config.entries).min(),  # of the groups
            "soft_perplexity": perplexity(soft).mean(),
            "gumbel_temperature": self.gumbel_temperature,
        }
        sums = {
            "masked_accuracy": found.right.sum(),
            "live_negatives": found.live.sum(),
            "contrastive_bits": nats / math.log(2),
            "loss_bits": loss / math.log(2),
        }
        metrics = {name: (value.detach().float(), count) for name, value in sums.items()}
        metrics |= {name: (value.detach().float() * count, count) for name, value in means.items()}
        return StepOutput(loss, count, metrics | spread(seen.detach()) | compared(context, targets.vectors))


def compared(predictions: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """How much the vectors that the loss compares differ over frames, (frame, dim) each: where either stands still, it means nothing."""
    return {"prediction_std": deviation(predictions), "target_std": deviation(targets)}


def draw_negatives(counts: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw, with replacement, among the other masked frames of an utterance: (utterance, slot, negative), slots.

    counts: (utterance,), masked frames. The only masked frame of an utterance gets itself, which losses leave out.
    """
    width = int(counts.max(initial=0))
    others = np.maximum(counts - 1, 1)[:, None, None]
    drawn = (rng.random((len(counts), width, number)) * others).astype(np.int64)
    drawn += (drawn >= np.arange(width)[:, None]) & (counts > 1)[:, None, None]
    return drawn


def slots_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of masked frames in the flattened (utterance, slot): (masked frame,). counts: (utterance,), masked frames."""
    width = int(counts.max(initial=0))
    return np.flatnonzero(np.arange(width) < counts[:, None])


def _head(dim: int, config: ContrastiveConfig, hidden_layers: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = config.hidden_factor * dim
    for _ in range(hidden_layers):
        layers += [nn.Linear(dim, width), nn.GELU()]
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, config.final_dim))
