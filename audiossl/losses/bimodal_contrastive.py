"""Contrastive loss of two kinds of embeddings of words: as they sound, and as they are written in phones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._precision import full_precision, unit

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def bimodal_contrastive(
    acoustic: Tensor, phonetic: Tensor, words: Tensor, *, margin: float = 0.5, hardest: int = 0, within: float = 0.0
) -> Tensor:
    """Mean over utterances of the contrastive loss (Hadsell et al., 2006, eq. 4) with the words, of both with one another (El-Geish, 2019).

    acoustic: (utterance, dim); phonetic: (word, dim), both made unit length; words: (utterance,) row of the word in `phonetic`, -1 unknown: adds nothing. With d the
    distance of two embeddings, a pair of one word costs d^2, of two words max(0, margin - d)^2. Of the pairs of two words the mean over the `hardest` nearest ones
    of each utterance and of each word counts, half each; 0: over all. within: weight of the same among utterances, whose pairs of one word need the word twice.
    The split into halves and the mining within the batch are our variant.
    """
    if margin <= 0:
        raise ValueError(f"margin: {margin} is not positive")
    known = words >= 0
    if not known.any():
        return (acoustic.sum() + phonetic.sum()) * 0.0
    sound, script, words = unit(acoustic[known]), unit(phonetic), words[known]
    same = words.unsqueeze(1) == torch.arange(len(script), device=words.device)  # (utterance, word)
    gaps = _distances(sound, script)
    apart = (margin - gaps).clamp(min=0.0).square()
    loss = (
        gaps[same].square().mean() + 0.5 * _hardest(apart, ~same, hardest) + 0.5 * _hardest(apart.T, ~same.T, hardest)
    )
    if within:
        twins = words.unsqueeze(1) == words
        others = ~torch.eye(len(words), dtype=torch.bool, device=words.device)
        between = _distances(sound, sound)
        pairs = twins & others
        pull = between[pairs].square().mean() if pairs.any() else 0.0 * between.sum()
        push = _hardest((margin - between).clamp(min=0.0).square(), ~twins, hardest)
        loss = loss + within * (pull + push)
    return loss


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distances of unit vectors, with a floor where the gradient of the root would be infinite."""
    return (2.0 - 2.0 * one @ other.T).clamp(min=1e-8).sqrt()


def _hardest(costs: Tensor, counted: Tensor, number: int) -> Tensor:
    """Mean over rows of the mean of the `number` greatest counted costs of each; rows without any are left out."""
    rows = counted.any(dim=1)
    if not rows.any():
        return costs.sum() * 0.0
    costs, counted = costs[rows], counted[rows]
    if number:
        ranked, place = costs.masked_fill(~counted, -1.0).topk(min(number, costs.shape[1]), dim=1)
        costs, counted = ranked, counted.gather(1, place)
    return ((costs * counted).sum(dim=1) / counted.sum(dim=1)).mean()
