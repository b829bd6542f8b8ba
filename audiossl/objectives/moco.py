"""MoCo for speakers: each crop finds the key of its twin among the keys of many earlier batches, with a margin if wanted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from audiossl.losses.moco_contrast import moco_contrast
from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._momentum import MomentumConfig, MomentumObjective
from audiossl.objectives._speaker import CropViews, MarginConfig, output_of, positive_cosine, projector, wide

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput, Utterance
    from audiossl.nn.gather import Layout

_NO_LABEL = -1


class MoCo(MomentumObjective):
    """MoCo with a queue for each view of keys (He et al., 2020), and margins (Lepage and Dehak, 2024).

    Queries keep their length until the loss, so that margins that read it have something to read. Keys of other crops of the same speaker
    in the queue count as negatives, unless `mask_column` tells them apart. Evaluation adds nothing to the queues. A micro-batch is what is enqueued:
    with `train.accumulate` a later one sees the keys of an earlier one.
    """

    queue: Tensor
    place: Tensor
    labels: Tensor

    @dataclass(frozen=True)
    class Config(MomentumConfig):
        """The published defaults on VoxCeleb2 (sslsv): 8.49 % EER with Fast ResNet-34, not rerun here. No projector.

        temperature: 1 / s. queue_size: keys of each queue; any number from the global batch on. key_groups: parts of a process's keys that
        batch norms see apart. Keys are dealt anew to processes and parts first ("shuffling BN", section 3.3), so that the statistics of
        its batch do not give a key away. On one process with one part all keys share one batch norm, and there is nothing to shuffle.
        symmetric: both crops are queries; otherwise the first is the query and the second the key, as in wespeaker. mask_column: file of the
        data directory, `utt2X`, whose utterances of the query's value are no negatives: with `utt2spk` an oracle, which reads labels.
        """

        temperature: float = 0.03
        queue_size: int = 32_768
        momentum: float = 0.999
        projector_dims: tuple[int, ...] = ()
        key_groups: int = 1
        symmetric: bool = True
        mask_column: str = ""
        margin: MarginConfig = field(default_factory=MarginConfig)

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("queue_size", "key_groups"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")

        @classmethod
        def tiny(cls) -> MoCo.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = MarginConfig("additive", 0.1, ramp_steps=2)
            return cls(
                crop_duration=0.3, queue_size=9, momentum=0.5, projector_dims=(8, 8), key_groups=2, margin=margin
            )

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config, projector(encoder.embedding_dim, config.projector_dims))
        self.config = config
        self.margin = config.margin.build(config.temperature)
        self.sides = 2 if config.symmetric else 1
        width = (encoder.embedding_dim, *config.projector_dims)[-1]
        self.register_buffer("queue", F.normalize(torch.randn(self.sides, config.queue_size, width), dim=2))
        self.register_buffer("place", torch.tensor(0))
        if config.mask_column:
            self.needs = (config.mask_column,)
            crops = CropViews((config.crop_duration,) * 2, config.crops, encoder.sample_rate)
            light = _LabelledViews(crops, config.mask_column)
            self.views, self.batch_views = light.views, light.batch_views
            self.register_buffer("labels", torch.full((config.queue_size,), _NO_LABEL))

    def forward(self, batch: Batch) -> StepOutput:
        """Mean of `moco_contrast` of the queries. accuracy: share of these that are nearer to their key than to all of the queue.

        positive_cosine: of the embeddings of both crops; of query and key where only one is a query.
        """
        self.begin()
        pieces = self.pieces(batch)
        embeddings = self.embed(pieces[: self.sides])
        queries = self.per_view(self.head, embeddings)
        layout = layout_of(pieces[0], across_processes=self.across)
        everybody = self._keys(pieces[-self.sides :], layout)  # (view, global batch, dim)
        keys = everybody[:, layout.start : layout.start + layout.sizes[layout.rank]]
        excluded = batch["label"].unsqueeze(1) == self.labels if self.config.mask_column else None  # (batch, entry)
        losses, right = [], []
        for query, key, queue in zip(queries, keys.flip(0), self.queue.flip(0), strict=True):
            options: dict[str, Any] = {"temperature": self.config.temperature, "margin": self.margin}
            losses.append(moco_contrast(query, key, queue, excluded=excluded, **options))
            right.append(_found(query, key, queue, excluded))
        if self.training:
            self._enqueue(everybody, batch, layout)
        pair = embeddings if self.config.symmetric else torch.stack([queries[0], keys[0]])
        metrics = {"accuracy": torch.cat(right).float().mean(), "positive_cosine": positive_cosine(pair)}
        return output_of(torch.stack(losses).mean(), embeddings, **metrics)

    @torch.no_grad()
    def _keys(self, pieces: list[Tensor], layout: Layout) -> Tensor:
        """Keys of the global batch, (view, global batch, dim), of length 1 and in the order of its utterances."""
        crops = torch.stack(pieces, dim=1)  # (batch, view, sample)
        order = torch.arange(layout.total, device=crops.device)
        if self.training:
            order = _permutation(layout, crops.device)
            crops = gather_with_gradient(crops, layout)[order][layout.start :][: len(crops)]
        # Two utterances each at least: batch norms of embeddings cannot do with a single row.
        parts = crops.tensor_split(max(1, min(self.config.key_groups, len(crops) // 2)))
        keys = [self.targets([*part.unbind(1)]) for part in parts]
        unit = F.normalize(wide(torch.cat(keys, dim=1)), dim=2)
        return gather_with_gradient(unit, layout, dim=1)[:, order.argsort()]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, batch: Batch, layout: Layout) -> None:
        """Overwrite the oldest keys. keys: (view, global batch, dim). batch: of this process."""
        size, count = self.config.queue_size, keys.shape[1]
        if count > size:
            raise ValueError(
                f"objective.queue_size: {size} is less than the {count} utterances of a batch over all processes; raise it"
            )
        places = (self.place + torch.arange(count, device=keys.device)) % size
        usable = (
            keys.isfinite().all(dim=2).all(dim=0)
        )  # or else one bad batch would stay for a whole round of the queue
        self.queue[:, places] = torch.where(usable.unsqueeze(1), keys.to(self.queue), self.queue[:, places])
        if self.config.mask_column:
            self.labels[places] = torch.where(usable, gather_with_gradient(batch["label"], layout), self.labels[places])
        self.place.copy_((self.place + count) % size)


def _permutation(layout: Layout, device: torch.device) -> Tensor:
    order = torch.randperm(layout.total).to(device)
    if len(layout.sizes) > 1:  # every process has drawn its own
        torch.distributed.broadcast(order, src=0)
    return order


@torch.no_grad()
def _found(query: Tensor, key: Tensor, queue: Tensor, excluded: Tensor | None) -> Tensor:
    """(batch,) bool. query: (batch, dim). key: (batch, dim) and queue: (entry, dim), of length 1. excluded: see `moco_contrast`."""
    query = wide(query)  # its length does not matter to who is nearest
    others = query @ queue.T
    if excluded is not None:
        others = others.masked_fill(excluded, -torch.inf)
    return (query * key).sum(dim=1) > others.amax(dim=1)


@dataclass(frozen=True)
class _LabelledViews:
    """Crops, and the value of a column as a number that is the same in every process and run."""

    crops: CropViews
    column: str

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """waveform: (sample,). label: from 0 on."""
        value = utterance.columns[self.column].strip().encode()
        label = int.from_bytes(hashlib.blake2b(value, digest_size=7).digest(), "big")
        return {**self.crops.views(utterance, rng), "label": label}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Change nothing."""
        return self.crops.batch_views(batch, rng)
