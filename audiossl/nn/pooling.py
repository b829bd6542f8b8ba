"""From frames to one vector per utterance: the mean over valid frames, and the linear head on top of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from audiossl.contracts import EncoderOutput


def mean_over_frames(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the valid frames, in float32 or better.

    frames: (batch, frame, ...). lengths: (batch,), valid frames, at least 1 each. Returns (batch, ...). What stands in the
    padding, even NaN, has no influence.
    """
    if frames.dtype in {torch.float16, torch.bfloat16}:
        frames = frames.float()
    valid = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None].to(frames.device)  # (batch, frame)
    valid = valid.reshape(*valid.shape, *[1] * (frames.ndim - 2))
    total = frames.masked_fill(~valid, 0.0).sum(dim=1)
    return total / lengths.to(total).reshape(-1, *[1] * (frames.ndim - 2))


def mixed(layers: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Sum of the layers weighted by the softmax of `logits`: (batch, frame, dim). One layer at a time, never a stack of them."""
    weights = logits.softmax(0)
    total = weights[0] * layers[0]
    for weight, layer in zip(weights[1:], layers[1:], strict=True):
        total = total + weight * layer
    return total


class WeightedLayers(nn.Module):
    """Softmax-weighted sum of all layers, frame by frame; the weights start equal (SUPERB: Yang et al., 2021, section 3.3)."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_layers + 1))

    def forward(self, output: EncoderOutput) -> Tensor:
        """Return (batch, frame, dim)."""
        return mixed(output.layers, self.layer_logits)

    def shares(self) -> Tensor:
        """Share of each layer: (layer,), sum 1."""
        return self.layer_logits.softmax(dim=0)


class UtteranceHead(nn.Module):
    """Softmax-weighted sum of the layers, optional projector, mean over valid frames, linear classifier.

    SUPERB (Yang et al., 2021, section 3.3 and `UtteranceLevel` in its code): every step is affine in time, so that the mean is taken
    first here, which gives the same logits for far less work. Layer weights start equal.
    """

    def __init__(self, dim: int, num_layers: int, num_classes: int, *, projector_dim: int = 0) -> None:
        super().__init__()
        self.weighted = WeightedLayers(num_layers)
        self.projector = nn.Linear(dim, projector_dim) if projector_dim else nn.Identity()
        self.classifier = nn.Linear(projector_dim or dim, num_classes)

    def forward(self, output: EncoderOutput) -> Tensor:
        """Return logits (batch, class)."""
        pooled = torch.stack([mean_over_frames(layer, output.lengths) for layer in output.layers], dim=1)
        mixed = torch.einsum("l,bld->bd", self.weighted.shares(), pooled)
        logits: Tensor = self.classifier(self.projector(mixed))
        return logits
