"""The loss of DinoSR and SpidR: cross-entropy over the codes of each codebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def dinosr(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the codes, mean over codebooks: (frame,) in nats (Liu et al., 2023, eq. 4).

    logits: (book, frame, code). codes: (book, frame) int64.
    """
    return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").mean(dim=0)
