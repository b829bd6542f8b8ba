"""What objectives with sampled positives share: a memory of the epoch, its clusters, and a queue of embeddings to draw from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._indexed import IndexedViews
from audiossl.objectives._speaker import CropViews, wide
from audiossl.objectives._spherical_kmeans import spherical_kmeans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from audiossl.contracts import Batch, SpeakerEncoder, Utterance

_CHUNK = 4096
_NONE = -1
CLEAN = "clean"


@dataclass(frozen=True)
class SamplingConfig:
    """The published defaults on VoxCeleb2 (sslsv).

    num_clusters, iterations: of k-means. neighbours: clusters other than its own from which an anchor's positive may come; 0: its own,
    itself included. queue_size: embeddings to draw from. start_epoch: the first one with such positives, 0-based. clean_duration: of a crop
    of its own, not augmented, of which an utterance is clustered, s: it is read in every epoch, and embedded in those that end with
    clusters. 0 clusters by the crops that are trained on, augmented as they are, and costs nothing.
    """

    num_clusters: int = 25_000
    iterations: int = 10
    neighbours: int = 1
    queue_size: int = 25_000
    start_epoch: int = 80
    clean_duration: float = 4.0

    def check_sampling(self) -> None:
        """Raise ValueError for what cannot be; a Config calls it."""
        if self.clean_duration < 0:
            raise ValueError(f"objective.clean_duration: {self.clean_duration} s is negative; 0 is no crop of its own")
        for name in ("iterations", "queue_size", "start_epoch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
        if not 0 <= self.neighbours < self.num_clusters:
            raise ValueError(
                f"objective.neighbours: {self.neighbours} is not from 0 to num_clusters - 1 = {self.num_clusters - 1}"
            )


class PositiveSampler(nn.Module):
    """Self-supervised positive sampling (Lepage and Dehak, 2025; arXiv 2505.14561), whatever the objective does with the positives.

    Recordings of one speaker fall into neighbouring clusters. An epoch is over once as many utterances were seen as there are; then the
    last embedding of each is clustered: of a clean crop, in eval mode, embedded in its turn during the epoch, as published. Where utterances are left out, as too
    short ones are, this epoch and the loader's are of other lengths: an utterance that has had no turn in this one is clustered by its embedding of the one before.
    The memory is part of the state and so resumes exactly even in the middle of an epoch.

    memory: (utterance, dim) float16: 2 bytes x dim per utterance, on the device and in every checkpoint. known: (utterance,) bool,
    embedded for the clustering. clusters: (utterance,) int32, -1 for none. near: (cluster, neighbours) int32, from which positives come.
    queue: (entry, width), what positives are made of; owners: (entry,) int64, their utterances, -1 for none yet. place: of the oldest.
    seen: utterances of this epoch. epochs: those that are over. across, in its methods: whether the batches of all processes are one.
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

    def __init__(self, config: SamplingConfig, utterances: int, *, dim: int, width: int) -> None:
        super().__init__()
        if utterances < config.num_clusters:
            raise ValueError(
                f"objective.num_clusters: {utterances} utterances do not fill {config.num_clusters} clusters; lower it"
            )
        self.config = config
        self.register_buffer("memory", torch.zeros(utterances, dim, dtype=torch.float16))
        self.register_buffer("known", torch.zeros(utterances, dtype=torch.bool))
        self.register_buffer("clusters", torch.full((utterances,), _NONE, dtype=torch.int32))
        shape = (config.num_clusters, max(config.neighbours, 1))
        self.register_buffer("near", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("queue", torch.zeros(config.queue_size, width))
        self.register_buffer("owners", torch.full((config.queue_size,), _NONE))
        for name in ("place", "seen", "epochs"):
            self.register_buffer(name, torch.tensor(0))

    @torch.no_grad()
    def sample(self, index: Tensor) -> tuple[Tensor, Tensor]:
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

    @property
    def wants_clean(self) -> bool:
        """Whether clean crops of this epoch will be clustered."""
        return self.config.clean_duration > 0 and int(self.epochs) + 1 >= self.config.start_epoch

    @torch.no_grad()
    def remember(self, embeddings: Tensor, entries: Tensor, index: Tensor, *, across: bool) -> None:
        """Keep what all processes saw.

        embeddings: (crop, batch, dim), of which the mean direction is clustered; entries: (batch, width), what positives are made of; index:
        (batch,), -1 for other data.
        """
        layout = layout_of(index, across_processes=across)
        if layout.total > len(self.queue):
            raise ValueError(
                f"objective.queue_size: {len(self.queue)} is less than the {layout.total} utterances of a batch over all processes; raise it"
            )
        units = F.normalize(F.normalize(wide(embeddings), dim=2).mean(dim=0), dim=1)
        units, entries, index = (gather_with_gradient(item, layout) for item in (units, entries, index))
        has_place = index >= 0
        seen = units[has_place]
        self.memory[index[has_place]] = seen.nan_to_num(0.0).half()
        self.known[index[has_place]] = seen.isfinite().all(dim=1)  # one broken one would break every centroid
        places = (self.place + torch.arange(layout.total, device=index.device)) % len(self.queue)
        usable = entries.isfinite().all(dim=1)
        self.queue[places] = entries.where(usable.unsqueeze(1), 0.0).to(self.queue)
        self.owners[places] = index.where(usable, _NONE)
        self.place.copy_((self.place + layout.total) % len(self.queue))
        self.seen += layout.total

    @torch.no_grad()
    def after_step(self, *, across: bool) -> None:
        """At the end of an epoch count it, and cluster if the next one wants clusters."""
        if int(self.seen) < len(self.known):
            return
        if int(self.epochs) + 1 < self.config.start_epoch:
            self.known.zero_()  # what is clustered first is of one epoch, and of clean crops alone where those are wanted
        self.epochs += 1
        if int(self.epochs) >= self.config.start_epoch:
            self._cluster(across=across)
        self.seen -= len(self.known)

    def _cluster(self, *, across: bool) -> None:
        """Cluster the epoch's embeddings, each process its share of the rows; the outcome is the same in all."""
        rows, config = self.known.nonzero().squeeze(1), self.config
        if len(rows) < config.num_clusters:
            raise ValueError(
                f"ssps: the {len(rows)} utterances of an epoch do not fill {config.num_clusters} clusters; lower objective.num_clusters"
            )
        order = torch.randperm(len(rows)).to(rows.device)
        if across:  # every process has to start from the same centroids
            torch.distributed.broadcast(order, src=0)
        layout = layout_of(rows, across_processes=across)
        own = rows.tensor_split(len(layout.sizes))[layout.rank]
        start = self.memory[rows[order[: config.num_clusters]]]
        result = spherical_kmeans(self.memory, own, start, iterations=config.iterations, across_processes=across)
        nearest = gather_with_gradient(result.nearest) if across else result.nearest
        self.clusters.fill_(_NONE)
        self.clusters[rows] = nearest.int()
        self.near.copy_(neighbours_of(result.centroids, config.neighbours))


@dataclass(frozen=True)
class CleanViews:
    """Crops and a place in memory, and one more crop of `seconds` as it was recorded, anywhere in the utterance."""

    indexed: IndexedViews
    seconds: float

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Beside those of `IndexedViews`, clean: (sample,)."""
        crops = self.indexed.views(utterance, rng)
        alone = CropViews((self.seconds,), "independent", self.indexed.crops.sample_rate)
        return {**crops, CLEAN: alone.views(utterance.clean, rng)["waveform"]}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Change nothing."""
        return self.indexed.batch_views(batch, rng)


def sampling_views(crops: CropViews, ids: Sequence[str], config: SamplingConfig) -> IndexedViews | CleanViews:
    """Return the views of an objective with sampled positives. ids: of the training data, in C order."""
    indexed = IndexedViews(crops, ids)
    return CleanViews(indexed, config.clean_duration) if config.clean_duration else indexed


@torch.no_grad()
def embed_clean(encoder: SpeakerEncoder, waveform: Tensor) -> Tensor:
    """Embeddings in eval mode, which leaves batch norms as they are: (1, batch, dim). waveform: (batch, sample)."""
    assert isinstance(encoder, nn.Module)
    modes = [
        (module, module.training) for module in encoder.modules()
    ]  # not all alike: a frozen part stays in eval mode
    encoder.eval()
    embeddings = encoder.embed(waveform, torch.full((len(waveform),), waveform.shape[1], device=waveform.device))
    for module, training in modes:
        module.training = training
    return embeddings.unsqueeze(0)


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
