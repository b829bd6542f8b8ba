"""Group normalisation over time, one group per channel, of a convolution of the waveform: padding left out of the statistics.

The norm follows a convolution with one input channel and a short kernel, so its statistics are known before the convolution is done:
a channel's mean is the kernel times the mean window and its variance the kernel's quadratic form in the covariance of windows (10 x 10).
That saves the passes over the widest activation of the whole model, and the statistics are exact at no cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames


class MaskedGroupNorm(nn.Module):
    """Convolve and normalise per channel over the valid frames (Wu and He, 2018, with one channel per group).

    legacy: the published behaviour, with padding in the statistics, so that a batch changes its members.
    """

    def __init__(self, num_channels: int, *, legacy: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.legacy = legacy
        self.eps = eps

    def forward(self, windows: Tensor, kernel: Tensor, lengths: Tensor) -> Tensor:
        """windows: (batch, frame, tap); kernel: (channel, tap); lengths: (batch,) valid frames. Returns (batch, frame, channel)."""
        with torch.autocast(windows.device.type, enabled=False):
            centred, covariance = self._moments(windows.float(), lengths)
            # What a kernel takes away of a strong hum leaves few of float32's digits, or less than nothing.
            variance = torch.einsum("ck,bkl,cl->bc", kernel.double(), covariance, kernel.double()).clamp(min=0)
            gain = self.weight.float() * torch.rsqrt(variance + self.eps).float()
            kernels = kernel.float().t() * gain.unsqueeze(1)  # (batch, tap, channel)
        return centred @ kernels + self.bias

    def _moments(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Centred windows, and their covariance (batch, tap, tap), float64."""
        if self.legacy:
            centred = windows - windows.mean(1, keepdim=True)
            return centred, _products(centred) / windows.shape[1]
        valid = valid_frames(lengths, windows.shape[1]).unsqueeze(-1)
        count = lengths.clamp(min=1).view(-1, 1, 1)
        mean = torch.where(valid, windows, 0).sum(1, keepdim=True) / count
        centred = torch.where(valid, windows - mean, 0)
        return centred, _products(centred) / count


def _products(windows: Tensor) -> Tensor:
    """Sum of outer products over frames, float64. A matrix product adds tens of thousands of terms in turn: 1e-5 off in float32."""
    exact = windows.double()
    return exact.transpose(1, 2) @ exact
