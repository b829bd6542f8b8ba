"""Softmax over classes whose logits are scaled cosines, with a margin on the target: AM, AAM and their kin; for labels and pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from audiossl.losses._checks import need_one_label_each
from audiossl.losses._contrast import cosine_contrast
from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin


class MarginSoftmaxLoss(NamedTuple):
    """loss: (row,) in nats, 0 where gated. kept: (row,) bool, not gated. prediction: (row,) int64, the class of the largest cosine."""

    loss: Tensor
    kept: Tensor
    prediction: Tensor


@full_precision
def margin_softmax(
    embeddings: Tensor,
    classes: Tensor,
    target: Tensor,
    *,
    scale: float = 30.0,
    margin: Margin | None = None,
    gate: float | None = None,
) -> MarginSoftmaxLoss:
    """-log softmax of scale x cosine at the target, whose cosine the margin lowers (Wang et al., 2018, eq. 4; Deng et al., 2019, eq. 3).

    embeddings: (row, dim). classes: (class, dim), one vector per class. Neither need be normalised. target: (row,) int64. margin: of
    `audiossl/margins/`; none is plain softmax on cosines. gate: rows whose loss is above it are taken for wrongly labelled and give
    loss 0 and no gradient (loss-gated learning: Tao et al., 2022). Sum over rows, divide by those kept.
    """
    if scale <= 0:
        raise ValueError(f"margin_softmax: scale {scale} is not positive")
    need_one_label_each(embeddings, target=target)
    cosines = unit(embeddings) @ unit(classes).T  # (row, class)
    positive = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, target.unsqueeze(1), value=True)
    loss = cosine_contrast(cosines, positive, embeddings, temperature=1 / scale, margin=margin)
    kept = torch.ones_like(target, dtype=torch.bool) if gate is None else loss.detach() <= gate
    return MarginSoftmaxLoss(loss.masked_fill(~kept, 0.0), kept, cosines.detach().argmax(dim=1))
