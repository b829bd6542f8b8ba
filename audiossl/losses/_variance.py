"""What VICReg and VIbCReg share: the hinge that holds the deviation of every dimension above a floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.gather import Layout


class Terms(NamedTuple):
    """invariance, variance, covariance: scalars before they are weighted; the last two are summed over both views."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor

    def weighted(self, invariance: float, variance: float, covariance: float) -> Tensor:
        """The loss: the terms times their weights."""
        return invariance * self.invariance + variance * self.variance + covariance * self.covariance


def deviation_hinge(variance: Tensor, *, floor: float, eps: float) -> Tensor:
    """Mean over dimensions of max(0, floor - sqrt(variance + eps)); variance: (dim,)."""
    return torch.relu(floor - (variance + eps).sqrt()).mean()


def off_diagonal(matrix: Tensor) -> Tensor:
    """The square matrix with its diagonal at 0."""
    return matrix - torch.diag_embed(matrix.diagonal())


def need_two_rows(layout: Layout) -> None:
    """Refuse a batch that has no variance."""
    if layout.total < 2:
        raise ValueError(f"a batch of {layout.total} utterance has no variance; raise data.batch_seconds")
