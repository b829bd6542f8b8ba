"""W-MSE: the views of an utterance agree after whitening, which leaves no room for collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision, unit
from audiossl.nn.gather import gather_with_gradient, layout_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from audiossl.nn.gather import Layout


@full_precision
def w_mse(
    first: Tensor,
    second: Tensor,
    *,
    generator: Generator,
    group_size: int = 128,
    shrinkage: float = 0.0,
    across_processes: bool = True,
) -> Tensor:
    """2 - 2 x mean cosine of the whitened views (Ermolov et al., 2021).

    first, second: (batch, dim), two views of each utterance. The global batch is dealt at random, alike for both views, into groups of
    `group_size`, at least twice the dimension in the paper, and each view of a group is whitened by itself; rows that do not fill a last
    group sit this step out. generator: on the CPU; that of the first process decides for all. shrinkage: share of the identity
    in the covariance. ValueError where there is no full group, or where a covariance of finite rows is singular.
    """
    need_same_shape("batch, dim", first=first, second=second)
    layout = layout_of(first, across_processes=across_processes)
    groups = layout.total // group_size
    if groups < 1:
        raise ValueError(
            f"w_mse: {layout.total} utterances do not fill a group of {group_size}; raise data.batch_seconds or lower group_size"
        )
    chosen = _permutation(layout, generator, first.device)[: groups * group_size]
    shape = (groups, group_size, first.shape[1])
    views = [gather_with_gradient(view, layout)[chosen].reshape(shape) for view in (first, second)]
    one, other = (unit(whiten(view, shrinkage=shrinkage)) for view in views)
    return 2 - 2 * (one * other).sum(dim=-1).mean()


@full_precision
def whiten(groups: Tensor, *, shrinkage: float = 0.0) -> Tensor:
    """Rows of mean 0 and covariance I in each group: L^-1 (x - mean), with L L^T = (1 - shrinkage) covariance + shrinkage I.

    groups: (group, row, dim). The covariance is divided by rows - 1. The factor is found in float64, for a batch near collapse.
    """
    exact = groups.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    rows, dim = groups.shape[1:]
    covariance = centred.transpose(1, 2) @ centred / (rows - 1)
    identity = torch.eye(dim, dtype=exact.dtype, device=exact.device)
    factor, fault = torch.linalg.cholesky_ex((1 - shrinkage) * covariance + shrinkage * identity)
    if fault.any() and exact.isfinite().all():
        raise ValueError(
            f"w_mse: the covariance of {rows} rows of {dim} dimensions is singular; raise group_size above twice the dimension, or shrinkage"
        )
    whitened: Tensor = torch.linalg.solve_triangular(factor, centred.transpose(1, 2), upper=False)
    return whitened.transpose(1, 2).to(groups)


def _permutation(layout: Layout, generator: Generator, device: torch.device) -> Tensor:
    order = torch.randperm(layout.total, generator=generator).to(device)
    if len(layout.sizes) > 1:  # every process has to deal the same groups
        torch.distributed.broadcast(order, src=0)
    return order
