"""SSPS: SimCLR whose positives, late in training, are other utterances that probably have the same speaker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from audiossl.data.manifest import Manifest
from audiossl.losses.nt_xent import nt_xent
from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._indexed import IndexedViews
from audiossl.objectives._speaker import (
    CropConfig,
    CropViews,
    MarginConfig,
    SpeakerObjective,
    output_of,
    positive_cosine,
    projector,
)
from audiossl.objectives._spherical_kmeans import spherical_kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput

_CHUNK = 4096
_NONE = -1


class SSPS(SpeakerObjective):
    """Self-supervised positive sampling on SimCLR (Lepage and Dehak, 2025; arXiv 2505.14561).

    Two crops of a recording share its channel, which NT-Xent therefore learns. Recordings of one speaker fall into neighbouring clusters:
    from `start_epoch` on the second crop's embedding gives way to one from a cluster near that of the utterance, drawn from a queue of
    late ones and without gradient. Where there is none, the crop itself stays.

    An epoch is over once as many utterances were seen as there are; then the encoder's embeddings of that epoch are clustered. Differs
    from the published code, which embeds all data again for that, clean and in crops of 4 s, as long as a third epoch: here the crops
    that were trained on are remembered, augmented as they were, the mean of both. So nothing is read twice, and the memory, being part of
    the state, resumes exactly even in the middle of an epoch. Not here: DINO as the base, and clusters by a teacher.

    memory: (utterance, dim) float16: 2 bytes x dim per utterance, on the device and in every checkpoint. known: (utterance,) bool,
    embedded in this epoch. clusters: (utterance,) int32, -1 for none. near: (cluster, neighbours) int32, from which positives come.
    queue: (entry, width), embeddings of second crops; owners: (entry,) int64, their utterances, -1 for none yet. place: of the oldest.
    seen: utterances of this epoch. epochs: those that are over.
    """

    memory: Tensor
    known: Tensor
    clusters: Tensor
    near: Tensor
    queue: Tensor
    owners: Tensor
    place: Tensor
    seen: Tensor
    epochs: Tensor

    @dataclass(frozen=True)
    class Config(CropConfig):
        """The published defaults on VoxCeleb2 (sslsv): 2.57 % EER, of 6.30 % without it, not rerun here. No projector.

        num_clusters, iterations: of k-means. neighbours: clusters other than its own from which an anchor's positive may come; 0: its own, itself included.
        queue_size: embeddings to draw from. start_epoch: 0-based; 80 of 100. temperature ... margin: those of SimCLR.
        """

        temperature: float = 0.03
        symmetric: bool = True
        projector_dims: tuple[int, ...] = ()
        margin: MarginConfig = field(default_factory=MarginConfig)
        num_clusters: int = 25_000
        iterations: int = 10
        neighbours: int = 1
        queue_size: int = 25_000
        start_epoch: int = 80

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("temperature", "iterations", "queue_size", "start_epoch"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            if not 0 <= self.neighbours < self.num_clusters:
                raise ValueError(
                    f"objective.neighbours: {self.neighbours} is not from 0 to num_clusters - 1 = {self.num_clusters - 1}"
                )

        @classmethod
        def tiny(cls) -> SSPS.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = MarginConfig("additive", 0.1, ramp_steps=2)
            small = cls(crop_duration=0.3, projector_dims=(8, 8), margin=margin)
            return replace(small, num_clusters=3, iterations=2, queue_size=9, start_epoch=1)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine", "replaced")

    def __init__(self, encoder: SpeakerEncoder, config: Config, ids: Sequence[str]) -> None:
        super().__init__(encoder, config)
        if len(ids) < config.num_clusters:
            raise ValueError(
                f"objective.num_clusters: {len(ids)} utterances do not fill {config.num_clusters} clusters; lower it"
            )
        self.config = config
        light = IndexedViews(CropViews((config.crop_duration,) * 2, config.crops, encoder.sample_rate), ids)
        self.views, self.batch_views = light.views, light.batch_views
        self.projector = projector(encoder.embedding_dim, config.projector_dims)
        self.margin = config.margin.build()
        width = (encoder.embedding_dim, *config.projector_dims)[-1]
        self.register_buffer("memory", torch.zeros(len(ids), encoder.embedding_dim, dtype=torch.float16))
        self.register_buffer("known", torch.zeros(len(ids), dtype=torch.bool))
        self.register_buffer("clusters", torch.full((len(ids),), _NONE, dtype=torch.int32))
        shape = (config.num_clusters, max(config.neighbours, 1))
        self.register_buffer("near", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("queue", torch.zeros(config.queue_size, width))
        self.register_buffer("owners", torch.full((config.queue_size,), _NONE))
        for name in ("place", "seen", "epochs"):
            self.register_buffer(name, torch.tensor(0))

    @classmethod
    def from_data(cls, encoder: SpeakerEncoder, config: Any, data_dir: Path) -> SSPS:
        """Build it with a place in memory for each utterance of a data directory."""
        return cls(encoder, config, Manifest.open(data_dir).ids)

    def forward(self, batch: Batch) -> StepOutput:
        """See `nt_xent`. replaced: share of utterances with a positive of another utterance. sampled_cosine: of anchors and positives as used.

        positive_cosine: of the two crops of an utterance, as in SimCLR. Evaluation replaces and remembers nothing.
        """
        embeddings = self.embed(self.pieces(batch))
        first, second = self.projector(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
        replaced, positives = torch.zeros_like(batch["index"], dtype=torch.bool), second
        if self.training:
            sampled, replaced = self._sample(batch["index"])
            positives = torch.where(replaced.unsqueeze(1), sampled.to(second), second)
        loss = nt_xent(
            first,
            positives,
            temperature=self.config.temperature,
            symmetric=self.config.symmetric,
            margin=self.margin,
            across_processes=self.across,
        )
        if self.training:
            self._remember(embeddings.detach(), second.detach(), batch["index"])
        metrics = {
            "positive_cosine": positive_cosine(embeddings),
            "sampled_cosine": positive_cosine(torch.stack([first, positives])),
            "replaced": replaced.float().mean(),
        }
        return output_of(loss, embeddings, **metrics)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """At the end of an epoch count it, and cluster if the next one wants clusters."""
        super().after_step(step)
        if int(self.seen) < len(self.known):
            return
        self.epochs += 1
        if int(self.epochs) >= self.config.start_epoch:
            self._cluster()
        self.known.zero_()
        self.seen.zero_()

    @torch.no_grad()
    def _sample(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a positive for each utterance: (batch, width), and (batch,) bool, whether there is one. index: (batch,), -1 for other data.

        A cluster near its own, all alike, then a member of that in the queue, all alike.
        """
        own = self.clusters[index].where(index >= 0, _NONE)
        choice = torch.randint(self.near.shape[1], own.shape, device=own.device)
        wanted = self.near[own, choice].where(
            own >= 0, len(self.near)
        )  # of clusters that do not exist there are no members
        held = self.clusters[self.owners].where(self.owners >= 0, _NONE)
        held, order = held.sort(stable=True)
        begin, end = (torch.searchsorted(held, wanted, right=right) for right in (False, True))
        count = end - begin
        member = begin + (torch.rand(count.shape, device=count.device, dtype=torch.float64) * count).long()
        return self.queue[order[member.clamp_max(len(order) - 1)]], count > 0

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, second: Tensor, index: Tensor) -> None:
        """Keep what all processes saw. embeddings: (crop, batch, dim); second: (batch, width); index: (batch,), -1 for other data."""
        layout = layout_of(index, across_processes=self.across)
        if layout.total > len(self.queue):
            raise ValueError(
                f"objective.queue_size: {len(self.queue)} is less than the {layout.total} utterances of a batch over all processes; raise it"
            )
        units = F.normalize(F.normalize(embeddings.float(), dim=2).mean(dim=0), dim=1)
        units, second, index = (gather_with_gradient(item, layout) for item in (units, second, index))
        has_place = index >= 0
        self.memory[index[has_place]] = units[has_place].half()
        self.known[index[has_place]] = (
            units[has_place].isfinite().all(dim=1)
        )  # one broken one would break every centroid
        places = (self.place + torch.arange(layout.total, device=index.device)) % len(self.queue)
        self.queue[places] = second.to(self.queue)
        self.owners[places] = index.where(second.isfinite().all(dim=1), _NONE)
        self.place.copy_((self.place + layout.total) % len(self.queue))
        self.seen += layout.total

    def _cluster(self) -> None:
        """Cluster the epoch's embeddings, each process its share of the rows; the outcome is the same in all."""
        rows, config = self.known.nonzero().squeeze(1), self.config
        if len(rows) < config.num_clusters:
            raise ValueError(
                f"ssps: the {len(rows)} utterances of an epoch do not fill {config.num_clusters} clusters; lower objective.num_clusters"
            )
        order = torch.randperm(len(rows)).to(rows.device)
        if self.across:  # every process has to start from the same centroids
            torch.distributed.broadcast(order, src=0)
        layout = layout_of(rows, across_processes=self.across)
        own = rows.tensor_split(len(layout.sizes))[layout.rank]
        start = self.memory[rows[order[: config.num_clusters]]]
        result = spherical_kmeans(self.memory, own, start, iterations=config.iterations, across_processes=self.across)
        nearest = gather_with_gradient(result.nearest) if self.across else result.nearest
        self.clusters.fill_(_NONE)
        self.clusters[rows] = nearest.int()
        self.near.copy_(neighbours_of(result.centroids, config.neighbours))


@torch.no_grad()
def neighbours_of(centroids: Tensor, count: int) -> Tensor:
    """The `count` other centroids of the largest cosine, (cluster, count) int64; for 0 itself, (cluster, 1).

    centroids: (cluster, dim), of length 1. A few thousand rows of the cosines exist at a time.
    """
    everyone = torch.arange(len(centroids), device=centroids.device)
    if count == 0:
        return everyone.unsqueeze(1)
    found = []
    for part in torch.split(everyone, _CHUNK):
        cosines = centroids[part] @ centroids.T
        cosines[everyone[: len(part)], part] = -torch.inf
        found.append(cosines.topk(count, dim=1).indices)
    return torch.cat(found)
