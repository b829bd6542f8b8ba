"""MoCo for speakers: each crop finds the key of its twin among the keys of many earlier batches, with a margin if wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from audiossl.losses.moco_contrast import moco_contrast
from audiossl.nn.gather import gather_with_gradient, layout_of
from audiossl.objectives._momentum import MomentumConfig, MomentumObjective, through
from audiossl.objectives._speaker import MarginConfig, output_of, positive_cosine, projector, wide

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput
    from audiossl.nn.gather import Layout


class MoCo(MomentumObjective):
    """Symmetric MoCo with a queue for each view (He et al., 2020), and margins (Lepage and Dehak, 2024).

    Queries keep their length until the loss, so that margins that read it have something to read. Keys of other crops of the same speaker
    in the queue count as negatives: nothing tells them apart. Evaluation adds nothing to the queues. A micro-batch is what is enqueued:
    with `train.accumulate` a later one sees the keys of an earlier one.
    """

    queue: Tensor
    place: Tensor

    @dataclass(frozen=True)
    class Config(MomentumConfig):
        """The published defaults on VoxCeleb2 (sslsv): 8.49 % EER with Fast ResNet-34, not rerun here. No projector.

        temperature: 1 / s. queue_size: keys of each queue; any number from the global batch on. key_groups: parts of a process's keys that
        batch norms see apart. Keys are dealt anew to processes and parts first ("shuffling BN", section 3.3), so that the statistics of
        its batch do not give a key away. On one process with one part all keys share one batch norm, and there is nothing to shuffle.
        """

        temperature: float = 0.03
        queue_size: int = 32_768
        momentum: float = 0.999
        projector_dims: tuple[int, ...] = ()
        key_groups: int = 1
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
        self.margin = config.margin.build()
        width = (encoder.embedding_dim, *config.projector_dims)[-1]
        self.register_buffer("queue", F.normalize(torch.randn(2, config.queue_size, width), dim=2))
        self.register_buffer("place", torch.tensor(0))

    def forward(self, batch: Batch) -> StepOutput:
        """Mean of `moco_contrast` of both views. accuracy: share of queries that are nearer to their key than to all of the queue."""
        self.begin()
        pieces = self.pieces(batch)
        embeddings = self.embed(pieces)
        queries = through(self.head, embeddings)
        layout = layout_of(pieces[0], across_processes=self.across)
        everybody = self._keys(pieces, layout)  # (view, global batch, dim)
        keys = everybody[:, layout.start : layout.start + layout.sizes[layout.rank]]
        losses, right = [], []
        for own, other in ((0, 1), (1, 0)):
            pair, queue = (queries[own], keys[other]), self.queue[other]
            losses.append(moco_contrast(*pair, queue, temperature=self.config.temperature, margin=self.margin))
            right.append(_found(*pair, queue))
        if self.training:
            self._enqueue(everybody)
        metrics = {"accuracy": torch.cat(right).float().mean(), "positive_cosine": positive_cosine(embeddings)}
        return output_of(torch.stack(losses).mean(), embeddings, **metrics)

    @torch.no_grad()
    def _keys(self, pieces: list[Tensor], layout: Layout) -> Tensor:
        """Keys of the global batch, (view, global batch, dim), of length 1 and in the order of its utterances."""
        crops = torch.stack(pieces, dim=1)  # (batch, view, sample)
        order = torch.arange(layout.total, device=crops.device)
        if self.training:
            order = _permutation(layout, crops.device)
            crops = gather_with_gradient(crops, layout)[order][layout.start :][: len(crops)]
        parts = crops.tensor_split(min(self.config.key_groups, len(crops)))
        keys = [self.targets([*part.unbind(1)]) for part in parts]
        unit = F.normalize(wide(torch.cat(keys, dim=1)), dim=2)
        return gather_with_gradient(unit, layout, dim=1)[:, order.argsort()]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest keys. keys: (view, global batch, dim)."""
        size, count = self.config.queue_size, keys.shape[1]
        if count > size:
            raise ValueError(
                f"objective.queue_size: {size} is less than the {count} utterances of a batch over all processes; raise it"
            )
        self.queue[:, (self.place + torch.arange(count, device=keys.device)) % size] = keys.to(self.queue)
        self.place.copy_((self.place + count) % size)


def _permutation(layout: Layout, device: torch.device) -> Tensor:
    order = torch.randperm(layout.total).to(device)
    if len(layout.sizes) > 1:  # every process has drawn its own
        torch.distributed.broadcast(order, src=0)
    return order


@torch.no_grad()
def _found(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """(batch,) bool. query: (batch, dim). key: (batch, dim) and queue: (entry, dim), of length 1."""
    query = wide(query)  # its length does not matter to who is nearest
    return (query * key).sum(dim=1) > (query @ queue.T).amax(dim=1)
