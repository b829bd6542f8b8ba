"""wav2vec's loss: for each of the next steps, tell the frame that comes from frames drawn elsewhere in the utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class StepsLoss(NamedTuple):
    """Sums over frames and steps of each utterance, (batch,). loss: nats, differentiable. decisions: binary ones that it sums.

    predictions: frames foreseen; right: of these, those that score above each of their negatives.
    """

    loss: Tensor
    decisions: Tensor
    predictions: Tensor
    right: Tensor


@full_precision
def step_binary_cross_entropy(
    predictions: Tensor, targets: Tensor, negatives: Tensor, lengths: Tensor, *, offset: int = 1
) -> StepsLoss:
    """Sum of -log s(z_i . h_k(c_t)) - sum over negatives n of log s(-z_n . h_k(c_t)), i = t + offset + k (Schneider et al., 2019, eq. 1).

    s: logistic function. predictions: (batch, frame, step, dim), h_k(c_t) for k = 0, 1, ... targets: (batch, frame, dim), z. negatives: (batch, frame,
    negative) int64, frames to be told from frame i; those at padding are not looked at. lengths: (batch,) valid frames. offset: of step 0 from t.
    """
    if offset < 1:
        raise ValueError(f"offset: {offset} frames ahead is no prediction; give at least 1")
    batch, num_frames, steps, dim = predictions.shape
    index = negatives.clamp(min=0).flatten(1).unsqueeze(2).expand(-1, -1, dim)
    others = targets.gather(1, index).view(batch, num_frames, -1, dim)
    candidates = torch.cat([targets.unsqueeze(2), others], dim=2)  # (batch, frame, 1 + negative, dim)
    loss = predictions.new_zeros(batch)
    foreseen, right = torch.zeros_like(lengths), torch.zeros_like(lengths)
    for step in range(steps):
        first = offset + step
        if first >= num_frames:
            break
        logits = torch.einsum("btd,btnd->btn", predictions[:, : num_frames - first, step], candidates[:, first:])
        valid = torch.arange(first, num_frames, device=lengths.device) < lengths.unsqueeze(1)
        nats = -F.logsigmoid(logits[..., 0]) - F.logsigmoid(-logits[..., 1:]).sum(dim=2)
        loss = loss + nats.masked_fill(~valid, 0.0).sum(dim=1)
        found = logits[..., 0] > logits[..., 1:].amax(dim=2)
        foreseen += valid.sum(dim=1)
        right += (found & valid).sum(dim=1)
    return StepsLoss(loss, foreseen * candidates.shape[2], foreseen, right)
