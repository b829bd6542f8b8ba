"""VIbCReg: VICReg whose covariance term is a mean of squared correlations, of the same size at any width."""

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
def vibcreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance: float = 1.0,
    variance: float = 1.0,
    covariance: float = 8.0,
    floor: float = 1.0,
    eps: float = 1e-4,
    across_processes: bool = True,
) -> Tensor:
    """Weighted sum of VIbCReg's terms (Lee and Aune, 2021). first, second: (batch, dim), two views of each utterance.

    The paper's projector ends in an iterative normalisation, which is the objective's business. See `vibcreg_terms`.
    """
    terms = vibcreg_terms(first, second, floor=floor, eps=eps, across_processes=across_processes)
    return terms.weighted(invariance, variance, covariance)


@full_precision
def vibcreg_terms(
    first: Tensor, second: Tensor, *, floor: float = 1.0, eps: float = 1e-4, across_processes: bool = True
) -> Terms:
    """VIbCReg's terms, unweighted: the first two are VICReg's, the third is the mean over dim^2 of squared correlations between dimensions.

    first, second: (batch, dim). Variances and correlations are those of the global batch; a dimension that is constant has correlation 0.
    """
    need_same_shape("batch, dim", first=first, second=second)
    layout = layout_of(first, across_processes=across_processes)
    need_two_rows(layout)
    covariances = [moments_over_batch(view, layout).covariance for view in (first, second)]
    hinges = [deviation_hinge(matrix.diagonal(), floor=floor, eps=eps) for matrix in covariances]
    squares = [off_diagonal(_correlation(matrix)).square().mean() for matrix in covariances]
    return Terms(F.mse_loss(first, second), hinges[0] + hinges[1], squares[0] + squares[1])


def _correlation(covariance: Tensor) -> Tensor:
    scale = covariance.diagonal().clamp_min(1e-16).rsqrt()
    return covariance * scale.unsqueeze(0) * scale.unsqueeze(1)
