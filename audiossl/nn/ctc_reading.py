"""Read out CTC: the best token of each frame, repetitions merged, then blanks dropped (Graves et al., 2006, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def greedy_tokens(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> list[list[int]]:
    """Tokens of each utterance. logits: (batch, frame, token); lengths: (batch,) valid frames."""
    best = logits.detach().argmax(dim=2)  # (batch, frame)
    frame = torch.arange(best.shape[1], device=best.device)
    before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-1)
    kept = (best != blank) & (best != before) & (frame < lengths.to(best.device).unsqueeze(1))
    return [row[keep].tolist() for row, keep in zip(best.cpu(), kept.cpu(), strict=True)]
