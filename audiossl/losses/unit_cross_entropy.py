"""Cross-entropy of each frame over units whose logits are linear: Fast-HuBERT, BEST-RQ and self-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.nn import functional as F

from audiossl.losses._checks import need_positive
from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class UnitLoss(NamedTuple):
    """loss: (frame,) in nats, differentiable. prediction: (frame,) int64, the most probable unit."""

    loss: Tensor
    prediction: Tensor


@full_precision
def unit_cross_entropy(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> UnitLoss:
    """-log softmax(logits / temperature) at the target (Yang et al., 2023; Chiu et al., 2022).

    logits: (frame, unit). target: (frame,) int64. Fast-HuBERT's temperature is 0.1, that of HuBERT's cosines; BEST-RQ has none.
    """
    need_positive(temperature=temperature)
    loss = F.cross_entropy(logits / temperature, target, reduction="none")
    return UnitLoss(loss, logits.detach().argmax(dim=1))
