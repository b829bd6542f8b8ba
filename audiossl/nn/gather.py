"""Batches that span all processes: rows and sums of every process, differentiable, so that a loss sees the global batch.

Each process computes the mean loss over its own anchors against everybody's candidates. Averaged over processes, as DistributedDataParallel
averages gradients, that is the loss of the global batch and so is its gradient. Where processes have batches of different sizes, the
means have to be weighted by these, as a `StepOutput` of (mean x batch, batch) does. In a world of one everything here is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the global batch is dealt out: `sizes` of the batches of all processes, in the order of ranks, and the own `rank`."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        """Rows of the global batch."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """Index in the global batch of this process's first row."""
        return sum(self.sizes[: self.rank])


class Moments(NamedTuple):
    """mean: (dim,). covariance: (dim, dim). centred: (own row, dim), the rows less the mean."""

    mean: Tensor
    covariance: Tensor
    centred: Tensor


def layout_of(x: Tensor, *, dim: int = 0, across_processes: bool = True) -> Layout:
    """Ask all processes for the size of their batch: that of `x` along `dim`.

    Every process has to call this, unless `across_processes` is False, which leaves this process alone with its batch.
    """
    own = x.shape[dim]
    if not across_processes or _world_size() == 1:
        return Layout((own,), 0)
    sizes = torch.zeros(_world_size(), dtype=torch.int64, device=x.device)
    sizes[torch.distributed.get_rank()] = own
    torch.distributed.all_reduce(sizes)
    return Layout(tuple(sizes.tolist()), torch.distributed.get_rank())


def gather_with_gradient(x: Tensor, layout: Layout | None = None, *, dim: int = 0) -> Tensor:
    """Return the rows of all processes, in the order of ranks, along `dim`.

    x: (..., own row, ...); the result has `layout.total` rows. layout: that of `x` if it is known already. The gradient of a row is the sum
    of what all processes say about it. Every process has to call this, and its backward.
    """
    layout = layout or layout_of(x, dim=dim)
    if len(layout.sizes) == 1:
        return x
    rows: Tensor = _Gather.apply(x.movedim(dim, 0), layout)  # type: ignore[no-untyped-call]
    return rows.movedim(0, dim)


def sum_over_processes(x: Tensor, layout: Layout) -> Tensor:
    """Add up the `x` of all processes, the same shape in each; the gradient, too, is the sum over all processes."""
    if len(layout.sizes) == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def mean_over_batch(x: Tensor, layout: Layout) -> Tensor:
    """Mean over the rows of the global batch. x: (own row, ...)."""
    return sum_over_processes(x.sum(dim=0), layout) / layout.total


def moments_over_batch(x: Tensor, layout: Layout, *, unbiased: bool = True) -> Moments:
    """Mean and covariance of the rows of the global batch, in two passes. x: (own row, dim). unbiased: divide by rows - 1."""
    mean = mean_over_batch(x, layout)
    centred = x - mean
    covariance = sum_over_processes(centred.T @ centred, layout) / (layout.total - int(unbiased))
    return Moments(mean, covariance, centred)


def variance_over_batch(x: Tensor, layout: Layout, *, unbiased: bool = True) -> Tensor:
    """Variance (dim,) over the rows of the global batch, in two passes. x: (own row, dim)."""
    centred = x - mean_over_batch(x, layout)
    return sum_over_processes(centred.square().sum(dim=0), layout) / (layout.total - int(unbiased))


def _world_size() -> int:
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return 1 if alone else torch.distributed.get_world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        own = layout.sizes[layout.rank]
        padded = x.new_zeros(max(layout.sizes), *x.shape[1:])  # the collective wants equal shapes
        padded[:own] = x
        parts = [torch.empty_like(padded) for _ in layout.sizes]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, layout.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # the collective writes in place
        torch.distributed.all_reduce(total)
        start, own = ctx.layout.start, ctx.layout.sizes[ctx.layout.rank]
        own_rows: Tensor = total[start : start + own]
        return own_rows, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:  # noqa: ARG004
        total: Tensor = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total
