"""What contrastive losses share: each anchor picks its positives from all candidates, by cosine or by inner product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from audiossl.losses._checks import need_positive
from audiossl.losses._precision import unit

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.margins._base import Margin

Form = Literal["mean", "sum", "inside"]


def contrast(
    anchors: Tensor,
    candidates: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    excluded: Tensor | None = None,
    margin: Margin | None = None,
    form: Form = "mean",
) -> Tensor:
    """Loss of each anchor, (anchor,) in nats, whose logits are cosines / temperature.

    anchors: (anchor, dim) and candidates: (candidate, dim), of any length. positive, excluded: (anchor, candidate) bool, what to find and
    what is no candidate at all. margin: changes the cosines of the positives first, and may add a penalty per anchor.
    """
    cosines = unit(anchors) @ unit(candidates).T
    return cosine_contrast(
        cosines, positive, anchors, temperature=temperature, excluded=excluded, margin=margin, form=form
    )


def cosine_contrast(
    cosines: Tensor,
    positive: Tensor,
    anchors: Tensor,
    *,
    temperature: float,
    excluded: Tensor | None = None,
    margin: Margin | None = None,
    form: Form = "mean",
) -> Tensor:
    """`contrast` from cosines (anchor, candidate) that are known already; anchors: (anchor, dim), for margins that use their norms."""
    need_positive(temperature=temperature)
    if margin is None:
        return softmax_contrast(cosines / temperature, positive, excluded=excluded, form=form)
    # The norms of the anchors as they come: after normalisation there would be nothing left to learn from them.
    norms = torch.linalg.vector_norm(anchors, dim=1)
    margined = margin(cosines, positive, norms)
    loss = softmax_contrast(margined.cosines / temperature, positive, excluded=excluded, form=form)
    return loss + margined.penalty


def softmax_contrast(
    logits: Tensor, positive: Tensor, *, excluded: Tensor | None = None, form: Form = "mean"
) -> Tensor:
    """Negative log-probability of the positives among all candidates, (anchor,); 0 for an anchor without positives.

    logits: (anchor, candidate). form, where an anchor has several positives: `mean` or `sum` of their negative log-probabilities, each
    with all others in the denominator; `inside`: the logarithm of their mean probability. With one positive these are the same.
    """
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    count = positive.sum(dim=1)
    if form == "inside":
        nothing = count == 0  # the logarithm of no probability at all would be -inf, with NaN as its gradient
        chosen = logits.masked_fill(~positive, -torch.inf).masked_fill(nothing.unsqueeze(1), 0.0)
        gap = logits.logsumexp(dim=1) - chosen.logsumexp(dim=1) + count.clamp_min(1).to(logits).log()
        return gap.masked_fill(nothing, 0.0)
    nats = torch.where(positive, logits.logsumexp(dim=1, keepdim=True) - logits, 0.0).sum(dim=1)
    return nats / count.clamp_min(1) if form == "mean" else nats
