"""Training a grid of perceptrons on pooled features with early stopping: each head is kept as it was at its best evaluation on dev."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from audiossl.data.progress import progress
from audiossl.diagnostics.mlp_grid import Adam, MLPGrid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from audiossl.diagnostics.head_training import Read
    from audiossl.diagnostics.linear_probe import Split
    from audiossl.diagnostics.mlp_grid import Init, MLPShape

_CHUNK = 1024  # utterances that are evaluated together


class Targets(Protocol):
    """What heads are trained for and measured by."""

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(head, item, output) and (item, ...) to (head, item)."""
        ...

    def headline(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the score of one head, higher is better. outputs: (item, output)."""
        ...


@dataclass(frozen=True)
class MLPTraining:
    """How heads are trained.

    batch: utterances. epochs: at most. eval_every: epochs. patience: evaluations without a better score until a head stops. plateau: evaluations without a better
    score after which its learning rate is halved, and again after as many more; 0: never.
    """

    batch: int
    epochs: int
    eval_every: int
    patience: int
    plateau: int
    dropout: float


@dataclass(frozen=True)
class FittedMLPs:
    """Every head as it was at its best. scores, losses: (head,) on dev, -inf and inf where nothing was finite. epochs, stopped: (head,), of the best and of the last evaluation."""

    heads: MLPGrid
    scores: np.ndarray
    losses: np.ndarray
    epochs: np.ndarray
    stopped: np.ndarray


def fit_mlps(
    train: Split,
    dev: Split,
    shape: MLPShape,
    heads: Sequence[tuple[float, Init]],
    training: MLPTraining,
    *,
    targets: Targets,
    read: Read,
    seed: int,
    device: str = "cpu",
    label: str = "",
) -> FittedMLPs:
    """Train heads of one shape, one for each (learning rate, initialisation). label: of the progress; "" shows none."""
    grid = MLPGrid.start(shape, [init for _, init in heads], seed, device)
    adam = Adam(grid, [rate for rate, _ in heads])
    best = grid.pick(list(range(len(heads))))
    scores, losses = np.full(len(heads), -np.inf), np.full(len(heads), np.inf)
    epochs, waits, stopped = (np.zeros(len(heads), np.int64) for _ in range(3))
    active = np.arange(len(heads))
    dev_labels = torch.from_numpy(dev.labels).to(device)
    span = range(1, training.epochs + 1)
    for epoch in progress(span, len(span), label) if label else span:
        _epoch(grid, adam, train, training, targets, read, (seed, epoch))
        if epoch % training.eval_every and epoch != training.epochs:
            continue
        stopped[active] = epoch
        outputs = predictions(grid, dev, read)
        found = targets.losses(outputs.to(device), dev_labels).double().mean(dim=1).cpu().numpy()
        for row, head in enumerate(active):
            score = targets.headline(outputs[row].numpy(), dev.labels) if np.isfinite(found[row]) else -np.inf
            waits[head] += 1
            if score > scores[head]:
                scores[head], losses[head], epochs[head], waits[head] = score, found[row], epoch, 0
                best.values[head], best.running[head] = grid.values[row], grid.running[row]
            elif training.plateau and waits[head] % (training.plateau + 1) == 0:
                adam.rates[row] /= 2
        going = np.isfinite(found) & (waits[active] < training.patience)
        if not going.any():
            break
        if not going.all():
            left = torch.from_numpy(np.flatnonzero(going))
            grid, active = grid.pick(left.to(device)), active[going]
            adam.keep(left)
    return FittedMLPs(best, scores, losses, epochs, stopped)


@torch.no_grad()
def predictions(grid: MLPGrid, split: Split, read: Read) -> Tensor:
    """Outputs of all heads for all items of a split, in evaluation: (head, item, output) float32 on the CPU."""
    found = []
    for start in range(0, len(split.rows), _CHUNK):
        items = np.arange(start, min(start + _CHUNK, len(split.rows)))
        found.append(grid.outputs(read(split.gather(items))).float().cpu())
    return torch.cat(found, dim=1)


def epoch_batches(count: int, batch: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Every item once, shuffled by `seed`. A last batch of one item joins the one before it: a batch norm cannot use it."""
    order = np.random.default_rng(seed).permutation(count)
    ends = list(range(batch, count, batch))
    if ends and count - ends[-1] == 1:
        ends.pop()
    yield from np.split(order, ends)


def _epoch(
    grid: MLPGrid,
    adam: Adam,
    train: Split,
    training: MLPTraining,
    targets: Targets,
    read: Read,
    seed: tuple[int, int],
) -> None:
    generator = torch.Generator(grid.values.device).manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    for items in epoch_batches(len(train.rows), training.batch, seed):
        ordered = np.sort(items)  # no matter to the heads, but to the disk
        x = read(train.gather(ordered))
        labels = torch.from_numpy(train.labels[ordered]).to(x.device)
        grid.values.requires_grad_()
        outputs = grid.outputs(x, dropout=training.dropout, generator=generator)
        total = targets.losses(outputs, labels).mean(dim=1).sum()
        (gradient,) = torch.autograd.grad(total, grid.values)
        grid.values = grid.values.detach()
        adam.step(grid, gradient)
