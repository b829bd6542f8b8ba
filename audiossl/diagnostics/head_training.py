"""Training many heads at once on pooled features: their batches, their choice on dev."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.data.progress import progress
from audiossl.diagnostics.batched_heads import HeadGrid, Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from audiossl.diagnostics.batched_heads import HeadShape
    from audiossl.diagnostics.linear_probe import Split

    Read = Callable[[np.ndarray], Tensor]
    """Features as they are stored, (..., layer, dim) float32, to what heads are given."""

_CHUNK = 512  # utterances that are evaluated together
_BLOCK = 1024  # batches that are drawn together


@dataclass(frozen=True)
class Training:
    """How heads are trained: Adam at a constant rate each. weight_decay: decoupled. clip_norm: of each head's gradient; 0 is none."""

    learning_rates: tuple[float, ...]
    steps: int
    batch: int
    eval_every: int
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclass(frozen=True)
class Group:
    """Heads that see the same batches, one per learning rate.

    seed: of the weights that they all start from. batches: endless, (batch,) item numbers of `train`. dev_weights: (item,) weight of each
    dev item in accuracy and loss; None: all alike.
    """

    train: Split
    dev: Split
    seed: int
    batches: Iterator[np.ndarray]
    dev_weights: np.ndarray | None = None


@dataclass(frozen=True)
class Fitted:
    """Every head as it was at its best step on dev. steps, accuracies (percent), losses: (rate, group), on dev, on the CPU."""

    heads: HeadGrid
    steps: Tensor
    accuracies: Tensor
    losses: Tensor

    def choose(self, learning_rates: Sequence[float], what: str) -> int:
        """Which learning rate is best on dev, in the mean over groups; ValueError if none has a finite loss."""
        if not torch.isfinite(self.losses).any():
            rates = list(learning_rates)
            raise ValueError(f"{what}: no learning rate of {rates} gives a finite loss; try smaller ones")
        means = self.accuracies.mean(dim=1)
        losses = self.losses.mean(dim=1).nan_to_num(nan=torch.inf)
        return min(range(len(means)), key=lambda k: (-float(means[k]), float(losses[k])))


def fit(
    groups: Sequence[Group],
    shape: HeadShape,
    training: Training,
    *,
    read: Read,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    label: str = "",
) -> Fitted:
    """Train all heads and keep each as it was at its best step on dev: by accuracy, then by loss. label: of the progress; "" shows none."""
    seeds = [group.seed for group in groups]
    heads = HeadGrid.start(shape, len(training.learning_rates), seeds, dtype, device)
    rates = training.learning_rates
    stepper = Stepper(heads, rates, weight_decay=training.weight_decay, clip_norm=training.clip_norm)
    rows = np.empty((len(groups), training.batch, shape.layers, shape.dim), np.float32)
    best = HeadGrid(shape, heads.values.clone())
    axes = heads.values.shape[:2]
    best_step = torch.zeros(axes, dtype=torch.int64)
    best_accuracy, best_loss = torch.full(axes, -1.0).double(), torch.full(axes, torch.inf).double()
    steps = range(1, training.steps + 1)
    for step in progress(steps, len(steps), label) if label else steps:
        labels = np.stack([_next(group, rows[number]) for number, group in enumerate(groups)])
        stepper.step(read(rows), torch.from_numpy(labels).to(device))
        if step % training.eval_every == 0 or step == training.steps:
            accuracy, loss = score(heads, groups, read)
            better = (accuracy > best_accuracy) | ((accuracy == best_accuracy) & (loss < best_loss))
            better &= torch.isfinite(loss)
            best_step[better], best_accuracy[better], best_loss[better] = step, accuracy[better], loss[better]
            best.values[better.to(device)] = heads.values[better.to(device)]
    return Fitted(best, best_step, best_accuracy, best_loss)


def shuffled(count: int, batch: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Batches (batch,) of item numbers without end: epoch after epoch, each shuffled by (seed, epoch); a batch may span two."""
    pool = np.empty(0, dtype=np.int64)
    epoch = 0
    while True:
        while len(pool) < batch:
            pool = np.concatenate([pool, np.random.default_rng([*np.atleast_1d(seed), epoch]).permutation(count)])
            epoch += 1
        yield pool[:batch]
        pool = pool[batch:]


def balanced(labels: np.ndarray, batch: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Batches (batch,) of item numbers without end, drawn with replacement: every class as often, in a class every item.

    labels: (item,) class numbers.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    while True:
        drawn = rng.integers(len(starts), size=(_BLOCK, batch))
        yield from order[starts[drawn] + (rng.random(drawn.shape) * sizes[drawn]).astype(np.int64)]


@torch.no_grad()
def outputs(heads: HeadGrid, split: Split, read: Read) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (predictions (rate, group, item, label), scores (rate, group, item, output)), some items at a time."""
    for start in range(0, len(split.rows), _CHUNK):
        items = np.arange(start, min(start + _CHUNK, len(split.rows)))
        scores = heads.logits(read(split.gather(items))[None])
        parts = torch.split(scores, list(heads.shape.classes), dim=-1)
        yield torch.stack([part.argmax(dim=-1) for part in parts], dim=-1), scores


def score(heads: HeadGrid, groups: Sequence[Group], read: Read) -> tuple[Tensor, Tensor]:
    """Accuracy (percent: every label right) and loss of every head on its group's dev: (rate, group) each."""
    found = torch.zeros(2, *heads.values.shape[:2], dtype=torch.float64)
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(id(group.dev), []).append(number)
    for numbers in members.values():  # those that share dev read it once
        dev, weights = groups[numbers[0]].dev, groups[numbers[0]].dev_weights
        weights = np.ones(len(dev.rows)) if weights is None else weights
        done = 0
        for predicted, scores in outputs(heads.pick(slice(None), numbers), dev, read):
            items = slice(done, done := done + scores.shape[2])
            labels = torch.from_numpy(dev.slots[items]).to(scores.device)
            hits = (predicted == labels).all(dim=-1)
            losses = _cross_entropy(scores, labels, heads.shape.classes)
            for row, values in enumerate((hits, losses)):
                found[row][:, numbers] += values.cpu().double() @ torch.from_numpy(weights[items])
        found[:, :, numbers] /= weights.sum()
    return 100.0 * found[0], found[1]


def _next(group: Group, out: np.ndarray) -> np.ndarray:
    """Read a group's next batch into `out`; returns its labels. Their order is no matter, but it is to the disk."""
    items = np.sort(next(group.batches))
    group.train.gather(items, out=out)
    labels: np.ndarray = group.train.slots[items]
    return labels


def _cross_entropy(scores: Tensor, labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """scores: (rate, group, item, output); labels: (item, label). Returns (rate, group, item), summed over labels."""
    total = scores.new_zeros(scores.shape[:-1])
    for part, wanted in zip(torch.split(scores, list(classes), dim=-1), labels.unbind(dim=-1), strict=True):
        right = part.gather(-1, wanted.expand(part.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        total += part.logsumexp(dim=-1) - right
    return total
