"""wav2vec 2.0's loss: each masked frame finds its target among those of other masked frames of the utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.losses._precision import full_precision
from audiossl.losses._sampled import ContrastiveLoss, sampled_logits

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def wav2vec2_contrastive(
    context: Tensor,
    targets: Tensor,
    negatives: Tensor,
    slots: Tensor,
    *,
    identity: Tensor | None = None,
    temperature: float = 0.1,
) -> ContrastiveLoss:
    """-log of exp(cos(c_t, q_t) / temperature) over its sum with that of each negative (Baevski et al., 2020, eq. 3), per masked frame.

    Arguments as in `_sampled.sampled_logits`: context c and targets q, (frame, dim); negatives, (utterance, slot, negative); slots, (frame,);
    identity, (frame,). A negative identical to the target has no share, as published; where all are, as when the codebook has collapsed, the
    loss is 0, which only `live` tells from success.
    """
    return sampled_logits(context, targets, negatives, slots, identity=identity, temperature=temperature).loss()
