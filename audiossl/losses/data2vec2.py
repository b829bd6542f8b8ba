"""The loss of data2vec 2.0: squared distance to the teacher's representation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def data2vec2(predictions: Tensor, targets: Tensor) -> Tensor:
    """Sum over dimensions of (prediction - target)^2, divided by the square root of their number: (frame,).

    predictions, targets: (frame, dim). Baevski et al. (2023), section 3.1, with the scale of the published implementation.
    """
    need_same_shape("frame, dim", may_be_empty=True, predictions=predictions, targets=targets)
    return (predictions - targets).square().sum(dim=1) / math.sqrt(predictions.shape[1])
