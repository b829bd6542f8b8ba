"""DeepCluster-v2 for speakers: predict in which cluster the utterance was an epoch ago."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossl.data.manifest import Manifest
from audiossl.losses.deepcluster import deepcluster
from audiossl.losses.swav import swav
from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._indexed import IndexedViews
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective
from audiossl.objectives._prototypes import code_perplexity, cosine_scores, unit_rows
from audiossl.objectives._speaker import CropViews, output_of, positive_cosine, wide
from audiossl.objectives._spherical_kmeans import spherical_kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class DeepCluster(ProjectedObjective):
    """DeepCluster-v2 (Caron et al., 2020) of two crops.

    The last embeddings of every utterance are kept; once as many utterances were seen as there are, they are clustered, head h by those of crop h mod 2,
    and for the next epoch all crops predict the clusters of their utterance. Centroids are not trained. Utterances without a cluster,
    because they were never usable, do not count; in evaluation the cluster is the nearest centroid of the head's crop.

    Epoch 0 has no clusters yet and trains SwAV on random centroids: the published code embeds all data before it begins, which the
    speaker model that followed it does not and so learns nothing in its first epoch.

    memory: (crop, utterance, dim) float16: 4 bytes x dim per utterance, on the device and in every checkpoint. known: (utterance,) bool,
    embedded. clusters: (head, utterance) int32, -1 for none. centroids: of all heads, one after another.
    seen: utterances since the last clustering. rounds: clusterings done.
    """

    memory: Tensor
    known: Tensor
    clusters: Tensor
    centroids: Tensor
    seen: Tensor
    rounds: Tensor

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """prototypes: clusters of each head. iterations: of k-means. Defaults: the model on Fast ResNet-34 of Lepage and Dehak's code."""

        prototypes: tuple[int, ...] = (3000, 3000, 3000)
        iterations: int = 10
        temperature: float = 0.1

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.prototypes, default=0) < 2 or self.iterations < 1:
                raise ValueError(
                    f"objective: prototypes {list(self.prototypes)} must be 2 or more for one head or more, iterations {self.iterations} positive"
                )

        @classmethod
        def tiny(cls) -> DeepCluster.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.3, projector_dims=(8, 8), prototypes=(3, 2), iterations=2)

    headline: ClassVar[tuple[str, ...]] = ("prototype_perplexity",)

    def __init__(self, encoder: SpeakerEncoder, config: Config, ids: Sequence[str]) -> None:
        super().__init__(encoder, config)
        if len(ids) < max(config.prototypes):
            raise ValueError(
                f"objective.prototypes: {len(ids)} utterances do not fill {max(config.prototypes)} clusters; lower it"
            )
        self.config = config
        light = IndexedViews(CropViews((config.crop_duration,) * 2, config.crops, encoder.sample_rate), ids)
        self.views, self.batch_views = light.views, light.batch_views
        self.register_buffer("memory", torch.zeros(2, len(ids), self.out_dim, dtype=torch.float16))
        self.register_buffer("known", torch.zeros(len(ids), dtype=torch.bool))
        self.register_buffer("clusters", torch.full((len(config.prototypes), len(ids)), -1, dtype=torch.int32))
        self.register_buffer("centroids", unit_rows(sum(config.prototypes), self.out_dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> DeepCluster:
        """Build it with a place in memory for each utterance of a data directory."""
        return cls(encoder, config, Manifest.open(data_dir).ids)

    def forward(self, batch: Batch) -> StepOutput:
        """Mean of the cross-entropy over heads and crops, see `deepcluster`; before the first clustering see `swav`.

        prototype_perplexity: of the nearest centroids of the first head; 1 means that all crops share one. assigned: share of utterances
        that have a cluster.
        """
        clustered = bool(self.rounds)  # read before the device has anything to do
        representations = self.embed(self.pieces(batch))
        units = F.normalize(wide(self.project(representations)), dim=2)
        heads = torch.split(cosine_scores(units, self.centroids), list(self.config.prototypes), dim=2)
        metrics = {
            "prototype_perplexity": code_perplexity(heads[0]),
            "positive_cosine": positive_cosine(representations),
        }
        if self.training:
            self._remember(units.detach(), batch["index"])
        if not clustered:
            losses = [swav(head, temperature=self.config.temperature, across_processes=self.across) for head in heads]
            nothing = torch.zeros((), device=units.device)
            return output_of(torch.stack(losses).mean(), representations, assigned=nothing, **metrics)
        clusters = self._clusters_of(batch["index"], heads)
        nats, assigned = self._cross_entropy(heads, clusters)
        output = output_of(nats.mean(), representations, assigned=assigned.float().mean(), **metrics)
        return replace(output, loss_sum=nats.sum(), count=assigned.sum().float())

    @torch.no_grad()
    def after_step(self, step: int) -> None:  # noqa: ARG002 - the contract's
        """Cluster once all utterances were seen."""
        if int(self.seen) >= len(self.known):
            self._cluster()

    def _cross_entropy(self, heads: Sequence[Tensor], clusters: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each utterance and whether it has a cluster, both (batch,). heads: (crop, batch, prototype); clusters: (head, batch)."""
        nats = []
        for scores, cluster in zip(heads, clusters, strict=True):
            crops, batch = scores.shape[:2]
            result = deepcluster(scores.flatten(0, 1), cluster.repeat(crops), temperature=self.config.temperature)
            nats.append(result.loss.view(crops, batch).mean(dim=0))
        return torch.stack(nats).mean(dim=0), clusters[0] >= 0

    def _clusters_of(self, index: Tensor, heads: Sequence[Tensor]) -> Tensor:
        """(head, batch) int64. index: (batch,), places in memory."""
        if self.training:
            return self.clusters[:, index].long().where(index >= 0, -1)
        return torch.stack([scores[number % 2].argmax(dim=1) for number, scores in enumerate(heads)])

    @torch.no_grad()
    def _remember(self, units: Tensor, index: Tensor) -> None:
        """Keep the embeddings of all processes. units: (crop, batch, dim); index: (batch,), -1 for an utterance without a place."""
        layout = layout_of(index, across_processes=self.across)
        units, index = gather_with_gradient(units, layout, dim=1), gather_with_gradient(index, layout)
        has_place = index >= 0
        units, index = units[:, has_place], index[has_place]
        self.memory[:, index] = units.nan_to_num(0.0).half()
        self.known[index] = units.isfinite().all(dim=2).all(dim=0)  # one broken embedding would break every centroid
        self.seen += layout.total

    def _cluster(self) -> None:
        """Cluster the memory anew, each process its share of the rows; the outcome is the same in all."""
        rows = self.known.nonzero().squeeze(1)
        if len(rows) < max(self.config.prototypes):
            raise ValueError(
                f"deepcluster: the {len(rows)} utterances of an epoch do not fill {max(self.config.prototypes)} clusters; lower objective.prototypes"
            )
        layout = layout_of(rows, across_processes=self.across)
        own = rows.tensor_split(len(layout.sizes))[layout.rank]
        self.clusters.fill_(-1)
        parts = torch.split(self.centroids, list(self.config.prototypes))
        for head, centroids in enumerate(parts):
            table = self.memory[head % 2]
            order = torch.randperm(len(rows)).to(rows.device)
            if self.across:  # every process has to start from the same centroids
                torch.distributed.broadcast(order, src=0)
            start = table[rows[order[: len(centroids)]]]
            result = spherical_kmeans(
                table, own, start, iterations=self.config.iterations, across_processes=self.across
            )
            centroids.copy_(result.centroids)  # a view of the buffer
            self.clusters[head, rows] = (
                gather_with_gradient(result.nearest).int() if self.across else result.nearest.int()
            )
        self.seen -= len(self.known)
        self.rounds += 1
