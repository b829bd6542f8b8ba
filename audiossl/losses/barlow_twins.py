"""Barlow Twins: the correlation of dimensions between two views is the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision, unit
from audiossl.losses._variance import need_two_rows, off_diagonal
from audiossl.nn.gather import layout_of, mean_over_batch, sum_over_processes, variance_over_batch

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.gather import Layout

Normalisation = Literal["batch", "latent", "both"]


@full_precision
def barlow_twins(
    first: Tensor,
    second: Tensor,
    *,
    redundancy: float = 0.005,
    scale: float = 0.025,
    normalisation: Normalisation = "batch",
    eps: float = 1e-5,
    across_processes: bool = True,
) -> Tensor:
    """Distance of the correlation C from the identity (Zbontar et al., 2021, eq. 1 and 2).

    scale x [sum over i of (1 - C_ii)^2 + redundancy x sum over i != j of C_ij^2].

    first, second: (batch, dim), two views of each utterance. redundancy: the paper's lambda. scale: of Lepage and Dehak's code.
    See `cross_correlation` for C and normalisation.
    """
    correlation = cross_correlation(
        first, second, normalisation=normalisation, eps=eps, across_processes=across_processes
    )
    return distance_from_identity(correlation, redundancy=redundancy, scale=scale)


def distance_from_identity(correlation: Tensor, *, redundancy: float = 0.005, scale: float = 0.025) -> Tensor:
    """See `barlow_twins`. correlation: (dim, dim)."""
    on_diagonal = (1 - correlation.diagonal()).square().sum()
    return scale * (on_diagonal + redundancy * off_diagonal(correlation).square().sum())


@full_precision
def cross_correlation(
    first: Tensor,
    second: Tensor,
    *,
    normalisation: Normalisation = "batch",
    eps: float = 1e-5,
    across_processes: bool = True,
) -> Tensor:
    """C = Z^T Z' / N, (dim, dim), of normalised views.

    first, second: (batch, dim). normalisation: `batch`, the paper's, standardises dimensions over the global batch, with the biased
    variance + eps; `latent` gives each embedding the length sqrt(dim), at which C can be the identity; `both` does the latter, then the
    former. The last two are our variant: Brima et al. (2023) normalise the latents so that their scale means nothing; we know of no
    equation. The published code standardises over all processes, Lepage and Dehak's over each by itself, and both add up without a gradient
    through the sum; here several processes give the values and gradients of one.
    """
    if normalisation not in {"batch", "latent", "both"}:
        raise ValueError(f"barlow_twins: normalisation {normalisation!r} is none of 'batch', 'latent' and 'both'")
    need_same_shape("batch, dim", first=first, second=second)
    layout = layout_of(first, across_processes=across_processes)
    need_two_rows(layout)
    views = [first, second]
    if normalisation != "batch":
        views = [unit(view) * view.shape[1] ** 0.5 for view in views]
    if normalisation != "latent":
        views = [_standardised(view, layout, eps) for view in views]
    return sum_over_processes(views[0].T @ views[1], layout) / layout.total


def _standardised(view: Tensor, layout: Layout, eps: float) -> Tensor:
    variance = variance_over_batch(view, layout, unbiased=False)
    return (view - mean_over_batch(view, layout)) * (variance + eps).rsqrt()
