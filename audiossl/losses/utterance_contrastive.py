"""UniSpeech-SAT's speaker loss: whether two frames of a batch come from the same utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from audiossl.losses._checks import need_positive, need_same_shape
from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor


_ROWS = 256


class UtteranceContrast(NamedTuple):
    """loss: (anchor,) in nats, differentiable. cosine: (anchor, 1 + candidate), detached; same: alike, bool, True = of one utterance."""

    loss: Tensor
    cosine: Tensor
    same: Tensor


@full_precision
def utterance_contrastive(
    anchors: Tensor, targets: Tensor, utterance: Tensor, candidates: Tensor, *, temperature: float = 0.1
) -> UtteranceContrast:
    """Binary cross-entropy of cos(s_i, t_j) / temperature against whether i and j share an utterance (Chen et al., 2022, section 3.2).

    anchors, targets: (frame, dim), the s_i and the t_i of the same frames. utterance: (frame,) int64. candidates: (frame, candidate) int64, frames
    that each anchor is compared with beside its own. The mean over 1 + candidates pairs, as in the published code, where the paper has a softmax.

    Neither the picked targets, frame x candidate x dim, nor all frame x frame cosines are ever there: the pairs are picked from blocks of rows of these.
    """
    need_same_shape("frame, dim", may_be_empty=True, anchors=anchors, targets=targets)
    need_positive(temperature=temperature)
    own = torch.arange(len(anchors), device=anchors.device).unsqueeze(1)
    pairs = torch.cat([own, candidates], dim=1)  # (frame, 1 + candidate)
    directions = unit(targets).T
    blocks = zip(torch.split(unit(anchors), _ROWS), torch.split(pairs, _ROWS), strict=True)
    cosine = torch.cat([(rows @ directions).gather(1, picked) for rows, picked in blocks])
    same = utterance[pairs] == utterance.unsqueeze(1)
    loss = F.binary_cross_entropy_with_logits(cosine / temperature, same.to(cosine.dtype), reduction="none")
    return UtteranceContrast(loss.mean(dim=1), cosine.detach(), same)
