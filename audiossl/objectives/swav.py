"""SwAV for speakers: each crop predicts to which prototypes the other one is assigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.losses.swav import swav
from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._prototypes import code_perplexity, cosine_scores, unit_rows
from audiossl.objectives._speaker import output_of, positive_cosine, wide

if TYPE_CHECKING:
    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class SwAV(ProjectedObjective):
    """Swapped assignments (Caron et al., 2020) of two crops, balanced by Sinkhorn over the global batch and a queue of earlier embeddings.

    queue: (view, entry, dim), unit embeddings of all processes, the newest first, the same in every process; each process contributes its
    share of it to Sinkhorn. filled: entries that it holds. steps: optimiser steps done. Prototypes are brought back to length 1 after
    every step.
    """

    queue: Tensor
    filled: Tensor
    steps: Tensor

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """Defaults: the model on Fast ResNet-34 of Lepage and Dehak's code, whose steps are epochs: 1 frozen, the queue from the 15th on.

        freeze_steps: for which the prototypes stay at random; one epoch. queue_start_step: the queue fills from there on and is used once
        it is full; None is never. queue_size: of all processes together.
        """

        prototypes: int = 6000
        temperature: float = 0.1
        epsilon: float = 0.05
        iterations: int = 3
        freeze_steps: int = 4_265
        queue_size: int = 3840
        queue_start_step: int | None = 63_975

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("prototypes", "queue_size", "epsilon"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")

        @classmethod
        def tiny(cls) -> SwAV.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.3, projector_dims=(8, 8), prototypes=5, freeze_steps=1, queue_size=3, queue_start_step=0
            )

    headline: ClassVar[tuple[str, ...]] = ("prototype_perplexity",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.prototypes = nn.Parameter(unit_rows(config.prototypes, self.out_dim))
        self.register_buffer("queue", torch.zeros(2, config.queue_size, self.out_dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> StepOutput:
        """See `swav`. prototype_perplexity: of the nearest prototypes of this process's crops; 1 means that all crops share one."""
        steps, filled = int(self.steps), int(self.filled)  # read before the device has anything to do
        representations = self.embed(self.pieces(batch))
        units = F.normalize(wide(self.project(representations)), dim=2)
        scores = self._scores(units, frozen=steps < self.config.freeze_steps)
        start = self.config.queue_start_step
        queueing = start is not None and steps >= start
        full = queueing and filled == self.config.queue_size
        loss = swav(
            scores,
            self._queue_scores() if full else None,
            temperature=self.config.temperature,
            epsilon=self.config.epsilon,
            iterations=self.config.iterations,
            across_processes=self.across,
        )
        if queueing and self.training:
            self._enqueue(units.detach())
        metrics = {"prototype_perplexity": code_perplexity(scores), "positive_cosine": positive_cosine(representations)}
        return output_of(loss, representations, **metrics)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Bring the prototypes back to length 1."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        self.steps.fill_(step)

    def _scores(self, units: Tensor, *, frozen: bool) -> Tensor:
        """Inner products with the prototypes: (view, batch, prototype)."""
        if not frozen:
            return cosine_scores(units, self.prototypes)
        # A gradient of zero, and not none at all, for which processes that train together would wait.
        return cosine_scores(units, self.prototypes.detach()) + 0.0 * self.prototypes.sum()

    @torch.no_grad()
    def _queue_scores(self) -> Tensor:
        """Of this process's share of the queue: (view, entry, prototype)."""
        share = self.queue
        if self.across:
            world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
            share = share.tensor_split(world, dim=1)[rank]
        return cosine_scores(share, self.prototypes)

    @torch.no_grad()
    def _enqueue(self, units: Tensor) -> None:
        """Put the embeddings of all processes in front and drop the oldest. units: (view, batch, dim)."""
        layout = layout_of(units, dim=1, across_processes=self.across)
        newest = gather_with_gradient(units, layout, dim=1)
        newest = newest[:, newest.isfinite().all(dim=2).all(dim=0)][:, : self.config.queue_size]
        self.queue.copy_(torch.cat([newest, self.queue], dim=1)[:, : self.config.queue_size])
        self.filled.add_(newest.shape[1]).clamp_(max=self.config.queue_size)
