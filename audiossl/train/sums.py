"""What one optimiser step adds up over micro-batches and processes, so that any split of the data gives the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from audiossl.contracts import Batch, StepOutput
    from audiossl.train.distributed import World


@dataclass(frozen=True)
class Totals:
    """Sums over one optimiser step and all processes: loss, its count, audio samples; means of the metrics.

    stop: whether any process caught a signal. bad: (utterance, message) of the recordings that were left out.
    """

    loss: float
    count: float
    samples: float
    stop: bool
    metrics: dict[str, float]
    bad: list[tuple[str, str]] = field(default_factory=list)


class Sums:
    """Adds up on the device: one vector, read once per step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._values = torch.zeros(3, dtype=torch.float64, device=device)
        self.bad: list[tuple[str, str]] = []

    def add(self, output: StepOutput, samples: torch.Tensor) -> None:
        """Take one micro-batch. samples: of valid audio in it."""
        self._names = self._names or sorted(output.metrics)
        pairs = [value for name in self._names for value in output.metrics[name]]
        values = [output.loss_sum.detach(), output.count, samples, *pairs]
        row = torch.stack([torch.as_tensor(value, device=self._device).double().reshape(()) for value in values])
        self._values = row if len(row) != len(self._values) else self._values + row

    def agree(self, world: World) -> None:
        """Let a process that had no batch add up zeros of the metrics that the others have."""
        names = max(world.gather([self._names]), key=len)
        if len(self._names) < len(names):
            self._names = names
            self._values = torch.zeros(3 + 2 * len(names), dtype=torch.float64, device=self._device)

    def total(self, world: World, stop: int) -> Totals:
        """Add up over processes in one message. stop: number of the signal that this process caught, or 0."""
        flags = torch.tensor([float(len(self.bad)), float(stop)], dtype=torch.float64, device=self._device)
        row = world.add_up(torch.cat([self._values, flags])).tolist()
        metrics = {name: row[3 + 2 * i] / row[4 + 2 * i] for i, name in enumerate(self._names) if row[4 + 2 * i]}
        bad = world.gather(self.bad) if row[-2] else []
        return Totals(row[0], row[1], row[2], stop=bool(row[-1]), metrics=metrics, bad=bad)


def sum_up(
    module: nn.Module, batches: Iterable[Batch], world: World, note: Callable[[list[tuple[str, str]]], None]
) -> dict[str, float]:
    """Loss and metrics of `module` over the batches of all processes, as the loop would report them in one step.

    batches: this process's. note: gets (utterance, message) of the recordings that any process left out. Every process must call this.
    """
    device = next(module.parameters()).device
    sums = Sums(device)
    for batch in batches:
        sums.bad += batch["bad"]
        if batch["utt_ids"]:
            on_device = to_device(batch, device)
            sums.add(module(on_device), on_device["waveform_lengths"].sum())
    sums.agree(world)
    totals = sums.total(world, 0)
    note(totals.bad)
    if not totals.count:
        raise ValueError("the development data gave no loss: nothing in it counted; give more of it, or larger batches")
    return {"loss": totals.loss / totals.count, **totals.metrics}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch."""
    if device.type == "cpu":
        return batch
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
