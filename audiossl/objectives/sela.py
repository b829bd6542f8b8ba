"""SeLa for frames: predict balanced labels that the model gave itself (Asano et al., 2020), in masked frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses._sinkhorn import sinkhorn
from audiossl.losses.unit_cross_entropy import unit_cross_entropy
from audiossl.nn.ema import WithFollowers, follow, follower_of
from audiossl.nn.gather import layout_of
from audiossl.nn.spread import spread
from audiossl.objectives._self_guided import SelfGuidedConfig, SelfGuidedObjective
from audiossl.objectives._units import code_health
from audiossl.objectives._unmasked import share_right

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.nn.ssl_encoder import SSLEncoder


class SeLa(SelfGuidedObjective, WithFollowers):
    """Self-labelling by optimal transport in place of HuBERT's k-means: labels use all clusters alike, so they cannot collapse.

    Training alternates: `labeller` and `labeller_head`, copies of `encoder` and `head`, are made anew every relabel_steps and give the labels until
    then, of whatever crop comes, without masks. The published method labels a whole data set at once and keeps the labels; here only the
    model is kept, and labels are balanced over the masked frames of a step's micro-batches, each by itself, of all processes.
    """

    additive: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Config(SelfGuidedConfig):
        """Masks and number of clusters as HuBERT's second iteration has them: our variant, for the paper is about images.

        clusters: of each of `heads` labellings, whose losses are averaged; the paper has 1 or 10. epsilon: 1 / lambda, the entropy's weight in
        the transport of log-probabilities, 1/25 in its code. iterations: of Sinkhorn and Knopp; the paper goes on until little changes, and 10 are too few at this
        epsilon where the model prefers one cluster. relabel_steps: between copies.
        """

        mask_prob: float = 0.8
        mask_length: int = 10
        clusters: int = 500
        heads: int = 1
        epsilon: float = 0.04
        iterations: int = 100
        relabel_steps: int = 1000

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("clusters", "heads", "epsilon", "iterations", "relabel_steps"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")

        @classmethod
        def tiny(cls) -> SeLa.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, clusters=5, heads=2, relabel_steps=2)

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "prediction_perplexity")

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.head = nn.Linear(encoder.dim, config.heads * config.clusters)
        self.labeller, self.labeller_head = follower_of(encoder).eval(), follower_of(self.head)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Copies and what they are copies of."""
        return [(self.labeller, self.encoder), (self.labeller_head, self.head)]

    def after_step(self, step: int) -> None:
        """Copy the model every relabel_steps."""
        super().after_step(step)
        if step % self.config.relabel_steps == 0:
            follow(self.pairs(), 0.0, buffers=True)

    def train(self, mode: bool = True) -> Self:
        """Leave the labeller in eval mode: labels do not depend on dropout."""
        super().train(mode)
        self.labeller.eval()
        return self

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the cross-entropy over masked frames, the mean over heads, and count the frames."""
        self.begin()
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        masked, places = self.masks(batch, local)
        top = self.encoder.contextualise(local.z, local.lengths, masked=masked).layers[-1].flatten(0, 1)
        seen = top[places]
        labels = self.labels(batch, places)  # (masked frame, head)
        logits = self.head(seen).unflatten(1, (self.config.heads, -1))
        nats, predicted = unit_cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss = nats.sum() / self.config.heads
        count = torch.full((), len(places), dtype=torch.float32, device=loss.device)
        right = (predicted == labels.flatten()).sum() / self.config.heads
        metrics = spread(seen) | self.mask_metrics(masked, local) | {"masked_accuracy": (right, count)}
        metrics |= code_health(nats.view_as(labels), predicted.view_as(labels), labels, self.config.clusters)
        if not self.training:  # labels of unmasked frames need a transport of their own
            others = self.unmasked(batch, local, masked)
            metrics["unmasked_accuracy"] = self._accuracy(top[others], self.labels(batch, others))
        return StepOutput(loss, count, metrics)

    @torch.no_grad()
    def _accuracy(self, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `share_right`. frames: (frame, dim), in context. labels: (frame, head)."""
        return share_right(self.head(frames).unflatten(1, (self.config.heads, -1)).argmax(dim=2), labels)

    @torch.no_grad()
    def labels(self, batch: Batch, places: Tensor) -> Tensor:
        """Balanced labels of some frames, (frame, head) int64: the argmax of the transport plan of log-probabilities.

        places: (frame,), in the flattened batch. Every process of a run has to call this.
        """
        top = self.labeller(batch["waveform"], batch["waveform_lengths"]).layers[-1].flatten(0, 1)[places]
        scores = self.labeller_head(top).float().unflatten(1, (self.config.heads, -1)).log_softmax(dim=2)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        layout = layout_of(top, across_processes=self.training and distributed)
        epsilon, iterations = self.config.epsilon, self.config.iterations
        plans = [sinkhorn(head, layout, epsilon=epsilon, iterations=iterations) for head in scores.unbind(1)]
        return torch.stack(plans, dim=1).argmax(dim=2)
