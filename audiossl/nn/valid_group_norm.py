"""Group normalisation over channels and time, padding left out of the statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames


class ValidGroupNorm(nn.Module):
    """Normalise each group of channels over its channels and all valid frames of an utterance (Wu and He, 2018), in float32 at least.

    Statistics are of the whole utterance, so a frame hears, faintly, what comes after it: as published, also in causal networks.
    """

    def __init__(self, num_channels: int, groups: int = 1, *, eps: float = 1e-5) -> None:
        super().__init__()
        if num_channels % groups:
            raise ValueError(f"{num_channels} channels do not split into {groups} groups; change one of the two")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (batch, frame, channel); lengths: (batch,) valid frames. Returns the same shape, undefined at padding."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            grouped = wide.reshape(*x.shape[:2], self.groups, -1)
            valid = valid_frames(lengths, x.shape[1])[:, :, None, None]
            count = (lengths.clamp(min=1) * grouped.shape[3]).view(-1, 1, 1, 1)
            mean = grouped.masked_fill(~valid, 0.0).sum((1, 3), keepdim=True) / count
            centred = grouped - mean
            variance = centred.masked_fill(~valid, 0.0).square().sum((1, 3), keepdim=True) / count
            normal: Tensor = (centred * torch.rsqrt(variance + self.eps)).flatten(2) * self.weight + self.bias
            return normal
