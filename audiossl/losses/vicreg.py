"""VICReg: views agree, every dimension keeps its variance, and dimensions are not correlated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision
from audiossl.losses._variance import Terms, deviation_hinge, need_two_rows, off_diagonal
from audiossl.nn.gather import layout_of, moments_over_batch

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def vicreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance: float = 1.0,
    variance: float = 1.0,
    covariance: float = 0.04,
    floor: float = 1.0,
    eps: float = 1e-4,
    across_processes: bool = True,
) -> Tensor:
    """Weighted sum of VICReg's terms (Bardes et al., 2022, eq. 6).

    first, second: (batch, dim), two views of each utterance. The weights are those in use for speakers, with the terms as the paper writes them; its
    published code halves the variance term and has 25, 25 and 1. See `vicreg_terms`.
    """
    terms = vicreg_terms(first, second, floor=floor, eps=eps, across_processes=across_processes)
    return terms.weighted(invariance, variance, covariance)


@full_precision
def vicreg_terms(
    first: Tensor, second: Tensor, *, floor: float = 1.0, eps: float = 1e-4, across_processes: bool = True
) -> Terms:
    """VICReg's terms, unweighted: mean square difference, hinge on the deviation, off-diagonal covariance (eq. 1 to 5).

    first, second: (batch, dim). Invariance is a mean over the own batch and over dimensions; the others take variance and covariance,
    divided by rows - 1, over the global batch and are summed over the two views.
    """
    need_same_shape("batch, dim", first=first, second=second)
    layout = layout_of(first, across_processes=across_processes)
    need_two_rows(layout)
    covariances = [moments_over_batch(view, layout).covariance for view in (first, second)]
    hinges = [deviation_hinge(matrix.diagonal(), floor=floor, eps=eps) for matrix in covariances]
    squares = [off_diagonal(matrix).square().sum() / first.shape[1] for matrix in covariances]
    return Terms(F.mse_loss(first, second), hinges[0] + hinges[1], squares[0] + squares[1])
