"""Labels that a model gives itself: the nearest word, where it is near enough."""

from __future__ import annotations

import torch

from audiossl.losses._precision import full_precision, unit


@torch.no_grad()
@full_precision
def self_labelling(acoustic: torch.Tensor, phonetic: torch.Tensor, *, radius: float) -> torch.Tensor:
    """Return the word whose embedding is nearest to each utterance's, -1 where it is further away than `radius`: (utterance,) int64.

    acoustic: (utterance, dim); phonetic: (word, dim); both made unit length, so that distances are 0 to 2. No gradient passes. How the published
    work labels (El-Geish, 2019) is unverified; this is our variant.
    """
    nearest, words = (unit(acoustic) @ unit(phonetic).T).max(dim=1)
    return torch.where(2.0 - 2.0 * nearest <= radius**2, words, -1)
