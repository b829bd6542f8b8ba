"""What objectives on DINO share: short and long crops match a momentum teacher's distribution over prototypes for other, long crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional as F

from audiossl.losses.dino import dino, moved_centre
from audiossl.objectives._momentum import MomentumConfig, MomentumObjective
from audiossl.objectives._speaker import CropRule, output_of, positive_cosine, through, wide

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput

_GLOBAL_CROPS = 2
_PROTOTYPES = "prototypes.weight"


@dataclass(frozen=True)
class DINOConfig(MomentumConfig):
    """The published defaults on VoxCeleb2 (sslsv).

    crop_duration, local_duration: of global and local crops, s. head_dim, bottleneck_dim, prototypes: widths of the head.
    teacher_ramp_steps: over which the teacher's temperature goes from start_teacher_temperature to teacher_temperature in a straight
    line; 0: it is constant. freeze_steps: for which the prototypes stand still, 1 epoch of 1,092,009 utterances in batches of 128;
    ema_steps: 80 of them. separate_views: the head sees crops of one length and then of the other, as published; crops of one length
    always go together.
    """

    crop_duration: float = 4.0
    crops: CropRule = "independent"
    local_duration: float = 2.0
    local_crops: int = 4
    head_dim: int = 2048
    bottleneck_dim: int = 256
    prototypes: int = 65_536
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    start_teacher_temperature: float = 0.04
    teacher_ramp_steps: int = 0
    centre_momentum: float = 0.9
    freeze_steps: int = 8_531
    ema_steps: int = 682_480

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("local_duration", "head_dim", "bottleneck_dim", "prototypes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
        for name in ("local_crops", "freeze_steps", "teacher_ramp_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is negative")
        start = self.start_teacher_temperature
        if not self.teacher_ramp_steps and start != DINOConfig.start_teacher_temperature:
            raise ValueError(
                f"objective.start_teacher_temperature: {start} changes nothing with teacher_ramp_steps 0; set that too"
            )
        if not 0 <= self.centre_momentum <= 1:
            raise ValueError(f"objective.centre_momentum: {self.centre_momentum} is not between 0 and 1")

    @property
    def durations(self) -> tuple[float, ...]:
        """Of all crops, the global ones first, s."""
        return (self.crop_duration,) * _GLOBAL_CROPS + (self.local_duration,) * self.local_crops

    @classmethod
    def tiny(cls) -> Self:
        """Return the smallest one that exercises everything, for tests."""
        durations = cls(crop_duration=0.4, local_duration=0.2, local_crops=3)
        widths = replace(durations, head_dim=8, bottleneck_dim=4, prototypes=10)
        return replace(widths, momentum=0.5, freeze_steps=1, ema_steps=4)


class DINOObjective(MomentumObjective):
    """The base: self-distillation with two global crops. What is evaluated is the teacher. A subclass says its `Config`."""

    centre: Tensor
    released: Tensor
    temperature: Tensor

    headline: ClassVar[tuple[str, ...]] = ("target_perplexity", "target_entropy")
    evaluated: ClassVar[str] = "teacher"

    def __init__(self, encoder: SpeakerEncoder, config: DINOConfig) -> None:
        super().__init__(encoder, config, Head(encoder.embedding_dim, config), config.durations)
        self.config = config
        self.separate_views = False  # crops of one length go together
        temperature = torch.tensor(teacher_temperature_after(0, config))
        self.register_buffer("temperature", temperature, persistent=config.teacher_ramp_steps > 0)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("released", torch.tensor(float(config.freeze_steps == 0)))

    def forward(self, batch: Batch) -> StepOutput:
        """See `dino`. The centre moves after the loss, in training, by the raw outputs of all processes; with `train.accumulate`, after each micro-batch.

        target_perplexity: of the teacher's mean distribution; 1 when one prototype takes all. target_entropy: mean of its distributions',
        nats; log(prototypes) when all are alike. Either is a collapse.
        """
        self.begin()
        pieces = self.pieces(batch)
        lengths = (pieces[:_GLOBAL_CROPS], pieces[_GLOBAL_CROPS:])
        config = self.config
        embeddings = torch.cat([self.embed(crops) for crops in lengths if crops])
        parts = embeddings.tensor_split([_GLOBAL_CROPS] if config.separate_views else [])
        student = torch.cat([through(self.head, part, gate=self.released) for part in parts if len(part)])
        teacher, metrics = self.teach(lengths[0], batch)
        loss = dino(
            student,
            teacher,
            self.centre,
            student_temperature=config.student_temperature,
            teacher_temperature=self.temperature,
        )
        metrics |= _target_metrics((teacher - self.centre) / self.temperature)
        if self.training:
            moved = moved_centre(self.centre, teacher, momentum=config.centre_momentum, across_processes=self.across)
            self.centre.copy_(torch.where(moved.isfinite(), moved, self.centre))
        return output_of(loss, embeddings, positive_cosine=positive_cosine(embeddings), **metrics)

    def teach(self, pieces: list[Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002 - for a subclass
        """What the teacher makes of the global crops: (global crop, batch, prototype), and metrics of it."""
        return self.targets(pieces), {}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher and its temperature, and let the prototypes train once freeze_steps are over."""
        if step <= self.config.freeze_steps:  # a gradient of 0 does not keep weight decay from shortening them
            self.head.get_parameter(_PROTOTYPES).copy_(self.teacher_head.get_parameter(_PROTOTYPES))
        super().after_step(step)
        self.released.fill_(float(step >= self.config.freeze_steps))
        self.temperature.fill_(teacher_temperature_after(step, self.config))


def teacher_temperature_after(step: int, config: DINOConfig) -> float:
    """Temperature of the teacher after `step` optimiser steps."""
    left = 1 - min(1.0, step / config.teacher_ramp_steps) if config.teacher_ramp_steps else 0.0
    return config.teacher_temperature + left * (config.start_teacher_temperature - config.teacher_temperature)


class Head(nn.Module):
    """Three linear layers, and cosines with prototypes: a linear layer whose weight norm has length 1, the published one's g.

    Inputs (row, dim). gate: what gradients of the prototypes are multiplied by, 0 or 1: they have one in every step, as
    DistributedDataParallel wants.
    """

    def __init__(self, dim: int, config: DINOConfig) -> None:
        super().__init__()
        width = config.head_dim
        self.layers = nn.Sequential(
            *(nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.GELU()),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.GELU()),
            nn.Linear(width, config.bottleneck_dim),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.layers[-1].get_parameter("bias"))
        self.prototypes = nn.Linear(config.bottleneck_dim, config.prototypes, bias=False)

    def forward(self, x: Tensor, *, gate: Tensor | None = None) -> Tensor:
        """Cosines (row, prototype)."""
        return self.cosines(self.bottleneck(x), gate=gate)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Directions below the prototypes: (row, bottleneck_dim), of length 1."""
        x = self.layers(x)
        return F.normalize(wide(x), dim=1)

    def cosines(self, directions: Tensor, *, gate: Tensor | None = None) -> Tensor:
        """Cosines (row, prototype), in float32: a temperature of 0.04 would make much of half precision's errors."""
        with torch.autocast(directions.device.type, enabled=False):
            prototypes = F.normalize(wide(self.prototypes.weight), dim=1)
            if gate is not None and prototypes.requires_grad:
                prototypes.register_hook(lambda gradient: gradient * gate)  # type: ignore[no-untyped-call]
            return directions @ prototypes.T


@torch.no_grad()
def _target_metrics(logits: Tensor) -> dict[str, Tensor]:
    """logits: of the teacher, (global crop, batch, prototype)."""
    targets = logits.softmax(dim=2)
    mean = targets.mean(dim=(0, 1))
    return {
        "target_perplexity": torch.special.entr(mean).sum().exp(),
        "target_entropy": torch.special.entr(targets).sum(dim=2).mean(),
    }
