"""BYOL's loss: predict the target network's embedding of the other view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._cross_view import cross_view_cosines
from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def byol_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Sum over ordered pairs of different views of 2 - 2 cos(prediction, target), mean over the batch (Grill et al., 2020, eq. 2).

    predictions: (view, batch, dim), of the predictor. targets: (view, batch, dim), of the target network; they get no gradient. Two views
    are BYOL; of more, all pairs count. Between 0 and 4 times the number of pairs.
    """
    cosines = cross_view_cosines(predictions, targets)  # (pair, batch)
    return (2 - 2 * cosines).mean(dim=1).sum()
