"""ccc-wav2vec 2.0: wav2vec 2.0 across a clean and an augmented view, with clustered negatives (Lodagala et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from audiossl.losses.cluster_contrastive import ScaleMode, cluster_contrastive
from audiossl.objectives._contrastive import ContrastiveConfig, ContrastiveObjective, PairedViews, draw_negatives
from audiossl.objectives._spherical_kmeans import spherical_kmeans

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch, StepOutput
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.losses._sampled import ContrastiveLoss
    from audiossl.objectives._contrastive import Targets


class CCCWav2Vec2(ContrastiveObjective):
    """Context and targets of both views, compared with each other three ways; augmentation must keep the time."""

    config: CCCWav2Vec2.Config

    @dataclass(frozen=True)
    class Config(ContrastiveConfig):
        """The published base model.

        clean_weight, target_weight, context_weight: of clean context to clean targets, of clean context to augmented targets, and of
        augmented context to clean targets. scale, scale_mode: of negatives in their target's cluster, see `cluster_contrastive`.
        frames_per_cluster: masked frames of an utterance for each cluster of the batch, of which there are two at least.
        cluster_iterations: of k-means; the published code makes as many at the most, and stops once the centres stand still.
        """

        clean_weight: float = 1.0
        target_weight: float = 0.5
        context_weight: float = 0.5
        scale: float = 0.3
        scale_mode: ScaleMode = "paper"
        frames_per_cluster: int = 16
        cluster_iterations: int = 100

        def __post_init__(self) -> None:
            super().__post_init__()
            weights = (self.clean_weight, self.target_weight, self.context_weight)
            if min(weights) < 0 or max(weights) == 0:
                raise ValueError(f"objective: weights {weights} must be at least 0, and one above it")
            if not 0 < self.scale <= 1:
                raise ValueError(f"objective.scale: {self.scale} is not above 0 and at most 1")
            if self.frames_per_cluster < 1 or self.cluster_iterations < 1:
                raise ValueError(
                    f"objective: frames_per_cluster is {self.frames_per_cluster}, cluster_iterations {self.cluster_iterations}; "
                    "give at least 1 of each"
                )

        @classmethod
        def tiny(cls) -> CCCWav2Vec2.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, final_dim=8, num_negatives=5, entries=4, frames_per_cluster=4)

    def light_views(self, config: Config, grid: FrameGrid, *, normalise: bool) -> CCCViews:  # type: ignore[override]
        """Return views in pairs, with two sets of negatives."""
        return CCCViews(config, grid, normalise)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames, and count those of one view (section 3.1, eq. 3).

        The same frames are masked in both views. Diversity and penalty are the clean view's. The blocks see both views as one batch.
        """
        lengths: Tensor = batch["waveform_lengths"]
        clean = self.encoder.local_features(batch["waveform"], lengths)
        augmented = self.encoder.local_features(batch["augmented"], lengths)
        targets, changed = self.quantise(clean.z, batch), self.quantise(augmented.z, batch)
        output = self.encoder.contextualise(
            torch.cat([clean.z, augmented.z]), clean.lengths.repeat(2), masked=batch["masked"].repeat(2, 1)
        )
        seen, heard = (view.flatten(0, 1)[batch["masked_frames"]] for view in output.layers[-1].chunk(2))
        clusters, changed_clusters = self._clusters(
            torch.cat([targets.vectors, changed.vectors]), batch["first"]
        ).chunk(2)
        context = self.project_context(seen)
        found = self._find(context, targets, clusters, batch, "negatives")
        crossed = self._find(context, changed, changed_clusters, batch, "augmented_negatives")
        back = self._find(self.project_context(heard), targets, clusters, batch, "negatives")
        config = self.config
        nats = config.clean_weight * found.loss.sum() + config.target_weight * crossed.loss.sum()
        nats = nats + config.context_weight * back.loss.sum()
        result = self.step_output(nats, found, seen, context, targets, clean.penalty)
        for name, other in (("cross_target_accuracy", crossed), ("cross_context_accuracy", back)):
            result.metrics[name] = (other.right.sum().float(), result.count)
        return result

    def _find(
        self, context: Tensor, targets: Targets, clusters: Tensor, batch: Batch, negatives: str
    ) -> ContrastiveLoss:
        return cluster_contrastive(
            context,
            targets.vectors,
            batch[negatives],
            batch["slots"],
            clusters=clusters,
            scale=self.config.scale,
            mode=self.config.scale_mode,
            identity=targets.identity,
            temperature=self.config.temperature,
        )

    def _clusters(self, vectors: Tensor, first: Tensor) -> Tensor:
        """Cluster the targets of both views by cosine. vectors: (row, dim); first: (cluster,), rows to start from. Returns (row,) int64."""
        rows = torch.arange(len(vectors), device=vectors.device)
        if not len(rows):
            return rows
        with torch.autocast(vectors.device.type, enabled=False):
            table = F.normalize(vectors.detach().float(), dim=1)
            return spherical_kmeans(table, rows, table[first], iterations=self.config.cluster_iterations).nearest


@dataclass(frozen=True)
class CCCViews(PairedViews):
    """What ccc-wav2vec 2.0 does in the loader's workers."""

    config: CCCWav2Vec2.Config

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask both views alike, and draw negatives for each.

        Adds what `ContrastiveViews` does, and augmented_negatives, like negatives; first: (cluster,) int64, the targets, first those of the clean
        view and then the augmented, from which the clustering starts.
        """
        batch = super().batch_views(batch, rng)
        counts = np.asarray(batch["masked"]).sum(axis=1)
        clusters = max(2, int(counts.max(initial=0)) // self.config.frames_per_cluster)
        targets = 2 * len(batch["slots"])
        return batch | {
            "augmented_negatives": draw_negatives(counts, self.config.num_negatives, rng),
            "first": rng.permutation(targets)[:clusters],
        }
