"""The convolutions of wav2vec and vq-wav2vec: a feature encoder at 100 Hz and a causal aggregator (Schneider et al., 2019; Baevski et al., 2020)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.nn.conv_frontend import conv_over_time
from audiossl.nn.valid_group_norm import ValidGroupNorm

if TYPE_CHECKING:
    from audiossl.contracts import Count

KERNELS = (10, 8, 4, 4, 4, 1, 1, 1)
STRIDES = (5, 4, 2, 2, 2, 1, 1, 1)
Activation: TypeAlias = Literal["gelu", "relu"]


class VQFeatureConvs(nn.Module):
    """Eight convolutions without padding or bias, each with a norm over channels and time and an activation; then, on request, log(1 + |x|).

    Receptive field 465 samples, hop 160.
    """

    stride = math.prod(STRIDES)
    sample_rate = 16000

    def __init__(self, dim: int, *, activation: Activation, log_compression: bool) -> None:
        super().__init__()
        self.activation, self.log_compression = activation, log_compression
        self.convs = nn.ModuleList(
            nn.Conv1d(dim if i else 1, dim, kernel, stride, bias=False)
            for i, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True))
        )
        self.norms = nn.ModuleList(ValidGroupNorm(dim) for _ in KERNELS)

    def num_frames(self, samples: Count) -> Count:
        """Frames of `samples` samples: floor((n - kernel) / stride) + 1 at each convolution."""
        count = samples
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            count = (count - kernel) // stride + 1
        return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample). Returns (batch, frame, dim), undefined at padding, and (batch,) valid frames."""
        if self.num_frames(waveform.shape[1]) == 0:
            raise ValueError(f"waveform of {waveform.shape[1]} samples has no frame of 465; leave out what is shorter")
        x, count = waveform.unsqueeze(-1), lengths
        for conv, norm in zip(self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv1d)
            x = conv_over_time(x, conv)
            count = ((count - conv.kernel_size[0]) // conv.stride[0] + 1).clamp(min=0)
            x = _activate(norm(x, count), self.activation)
        return torch.log1p(x.abs()) if self.log_compression else x, count


class CausalAggregator(nn.Module):
    """Convolutions that hear only the past, each with a norm, an activation and a skip: (x + r) sqrt(1/2).

    The first frame is repeated in front, so that there are as many frames as before.
    """

    def __init__(self, dim: int, kernels: tuple[int, ...], *, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel) for kernel in kernels)
        self.norms = nn.ModuleList(ValidGroupNorm(dim) for _ in kernels)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (batch, frame, dim); lengths: (batch,) valid frames. Returns the same shape, undefined at padding."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv1d)
            before = x[:, :1].expand(-1, conv.kernel_size[0] - 1, -1)
            y = _activate(norm(conv_over_time(torch.cat([before, x], dim=1), conv), lengths), self.activation)
            x = (x + y) * math.sqrt(0.5)
        return x


def _activate(x: Tensor, activation: Activation) -> Tensor:
    return F.gelu(x) if activation == "gelu" else x.relu()
