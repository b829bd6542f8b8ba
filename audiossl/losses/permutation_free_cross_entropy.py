"""Binary cross entropy of outputs that have no order of their own: who speaks when, without a name."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class PermutationFreeLoss(NamedTuple):
    """loss: (batch,) nats, summed over frames, mean over outputs. order: (batch, output) int64, the label that each output was matched to."""

    loss: Tensor
    order: Tensor


@full_precision
def permutation_free_cross_entropy(logits: Tensor, labels: Tensor, lengths: Tensor) -> PermutationFreeLoss:
    """Least binary cross entropy over all ways to match outputs with labels (Fujita et al., 2019: the permutation-free objective).

    min over p of sum_t mean_s BCE(sigmoid(logits[t, s]), labels[t, p(s)]); one p for all frames of an utterance. logits, labels: (batch, frame,
    output); labels 0 or 1. lengths: (batch,) valid frames. Divide the sum over the batch by the frames. There are output! ways: for few.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ; give as many of each")
    outputs = logits.shape[2]
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths.to(logits.device).unsqueeze(1)
    every = F.binary_cross_entropy_with_logits(  # (batch, frame, output, label)
        logits.unsqueeze(3).expand(-1, -1, -1, outputs),
        labels.to(logits.dtype).unsqueeze(2).expand(-1, -1, outputs, -1),
        reduction="none",
    )
    pairs = every.masked_fill(~valid[..., None, None], 0.0).sum(dim=1)  # (batch, output, label)
    ways = torch.tensor(list(permutations(range(outputs))), device=logits.device)  # (way, output)
    sums = pairs[:, torch.arange(outputs, device=logits.device), ways].mean(dim=2)  # (batch, way)
    loss, best = sums.min(dim=1)
    return PermutationFreeLoss(loss, ways[best])
