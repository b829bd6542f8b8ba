"""What losses that predict one view from another share: cosines over all pairs of different views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._checks import need_same_shape
from audiossl.losses._precision import unit

if TYPE_CHECKING:
    from torch import Tensor


def cross_view_cosines(predictions: Tensor, targets: Tensor) -> Tensor:
    """cos(prediction of view a, target of view b) for all a != b, (pair, batch).

    predictions, targets: (view, batch, dim), in the same order; targets are detached.
    """
    need_same_shape("view, batch, dim", predictions=predictions, targets=targets)
    if len(predictions) < 2:
        raise ValueError(f"{len(predictions)} view has no other to predict; give two views or more")
    cosines = torch.einsum("and,bnd->abn", unit(predictions), unit(targets.detach()))
    different = ~torch.eye(len(predictions), dtype=torch.bool, device=cosines.device)
    return cosines[different]
