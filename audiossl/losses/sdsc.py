"""Structural dissimilarity of two signals: how far they lack common sign and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._precision import full_precision
from audiossl.losses._structure import structural_similarity

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def sdsc(estimate: Tensor, reference: Tensor, *, sharpness: float | None = 10.0, smooth: float = 0.0) -> Tensor:
    """1 - SDSC of each signal (SDSC: A Structure-Aware Metric for Semantic Signal Representation Learning): (...).

    SDSC = 2 sum_t H(e_t r_t) min(|e_t|, |r_t|) / sum_t (|e_t| + |r_t|), between 0 and 1: 1 where the two are equal, 0 where all signs
    differ or either is 0. estimate e, reference r: (..., t). sharpness: alpha of sigmoid(alpha e r), which stands for the step H so that there is
    a gradient; None: H itself, the metric. The sigmoid is 1/2 at 0, so an estimate near 0 is pushed away from it whatever its sign: this loss
    wants another one beside it, such as the mean square of the published hybrid. smooth: above 0, the size difference over which a smooth minimum, the mean of
    both sizes with weights sigmoid((other - own) / smooth), stands for the minimum; its form is our choice. It is never below the minimum nor above the
    mean, so that values stay between 0 and 1, and 1 where the two are equal.
    """
    return 1 - structural_similarity(estimate, reference, sharpness=sharpness, smooth=smooth)
