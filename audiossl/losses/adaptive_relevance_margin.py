"""Adaptive relevance margins: how much better the right word must fit depends on how alike the two words are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def adaptive_relevance_margin(query: Tensor, document: Tensor, own: Tensor, *, detach: bool = False) -> Tensor:
    """Mean over queries and other documents of (s(q, d+) - s(q, d-) - T)^2 with the target T = cos(d+, d-) / 2 + 1 / 2 (Gienapp et al., 2024).

    query: (item, dim); document: (candidate, dim); s: cosine; own: (item,) row of the right document, -1 unknown: adds nothing. The target comes of the
    same encoder and, as in the published code, grows with the likeness of the two documents and is in the gradient; detach: it is not.
    """
    known = own >= 0
    script = unit(document)
    if len(script) < 2 or not known.any():
        return (query.sum() + document.sum()) * 0.0
    own = own[known]
    scores = unit(query[known]) @ script.T  # (item, candidate)
    alike = script @ script.T
    target = 0.5 * (alike.detach() if detach else alike)[own] + 0.5
    gaps = scores.gather(1, own.unsqueeze(1)) - scores - target
    others = own.unsqueeze(1) != torch.arange(len(script), device=own.device)
    return gaps[others].square().mean()
