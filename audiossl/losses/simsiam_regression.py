"""SimSiam's loss: predict the embedding of the other view, with no gradient into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._cross_view import cross_view_cosines
from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def simsiam_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over ordered pairs of different views and over the batch of -cos(prediction, target) (Chen and He, 2021, eq. 1 to 4).

    predictions: (view, batch, dim), of the predictor. targets: (view, batch, dim), of the projector; they get no gradient. Between -1 and 1.
    """
    return -cross_view_cosines(predictions, targets).mean()
