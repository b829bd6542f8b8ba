"""HuBERT's loss: cross-entropy over codewords whose logits are scaled cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.nn import functional as F

from audiossl.losses._checks import need_positive
from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor


class CodewordLoss(NamedTuple):
    """loss: (frame,) in nats, differentiable. prediction: (frame,) int64, the nearest codeword."""

    loss: Tensor
    prediction: Tensor


@full_precision
def codeword_cross_entropy(
    context: Tensor, codewords: Tensor, target: Tensor, *, temperature: float = 0.1
) -> CodewordLoss:
    """Cross-entropy of p(c | t) = softmax over c of cos(A o_t, e_c) / temperature (Hsu et al., 2021, eq. 3).

    context: (frame, dim), the projected frames A o_t. codewords: (code, dim), the e_c. target: (frame,) int64, indices of codewords.

    The published implementation repeats the codewords for every frame, puts the positive in front and hides its double among
    the others: the same number, at frame x code x dim values of memory. Here the cosine is one matrix product of normalised rows, and
    nothing larger than the frame x code logits exists. Computed in float32 at least, also under autocast.
    """
    need_positive(temperature=temperature)
    logits = unit(context) @ unit(codewords).T / temperature  # (frame, code)
    loss = F.cross_entropy(logits, target, reduction="none")
    return CodewordLoss(loss, logits.detach().argmax(dim=1))
