"""Masked reconstruction: how far what a model fills in is from what was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision
from audiossl.losses._structure import structural_similarity

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def reconstruction(
    estimate: Tensor,
    target: Tensor,
    *,
    mse_weight: float = 1.0,
    l1_weight: float = 0.0,
    sdsc_weight: float = 0.0,
    sdsc_sharpness: float = 10.0,
    sdsc_smooth: float = 0.0,
) -> Tensor:
    """Weighted sum of the mean square, the mean size and the structural dissimilarity of each frame's error: (frame,).

    estimate, target: (frame, value), means over values. The mean square alone is MAE's loss (He et al., 2022, section 3) and that of MERT's constant-Q head
    (Li et al., 2024, section 3.2); with sdsc_weight, the hybrid lambda_1 (1 - SDSC) + lambda_2 MSE of SDSC's authors, see `sdsc`, also for
    sdsc_sharpness and sdsc_smooth.
    A loss that weighs nothing is not computed.
    """
    need_same_shape("frame, value", may_be_empty=True, estimate=estimate, target=target)
    error = estimate - target
    loss = mse_weight * error.square().mean(dim=1)
    if l1_weight:
        loss = loss + l1_weight * error.abs().mean(dim=1)
    if sdsc_weight:
        alike = structural_similarity(estimate, target, sharpness=sdsc_sharpness, smooth=sdsc_smooth)
        loss = loss + sdsc_weight * (1 - alike)
    return loss
