"""The convolutional feature encoder of wav2vec 2.0: raw waveform to 512 features, every 20 ms unless told otherwise.

Activations are (batch, frame, channel) in memory all the way, so that norms over channels, the Transformer's layout and channels-last
convolution kernels meet without a transposition.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.masked_norm import MaskedGroupNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.contracts import Count
    from audiossl.nn.attention import FrameLayout

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)


class ConvFrontend(nn.Module):
    """Convolutions without padding (Baevski et al., 2020, sections 2 and 4.2).

    kernels, strides: of each convolution, in its input's frames. The seven by default have a receptive field of 400 samples and a hop of 320;
    mHuBERT at 25 Hz has an eighth of 2 and 2.
    sample_rate: Hz, of the waveforms; kernels and hop are the same numbers of samples at any rate, as MERT has them at 24 kHz.
    norm "group": group norm per channel over time after the first convolution alone; "layer": layer norm over channels after each.
    conv_bias: biases in the convolutions; the one before a group norm has none, as the norm would take it away.
    legacy_norm: see `MaskedGroupNorm`; without it, padding changes nothing. Kernels are Kaiming-normal.
    """

    def __init__(
        self,
        *,
        conv_dim: int = 512,
        norm: Literal["group", "layer"] = "group",
        conv_bias: bool = False,
        legacy_norm: bool = False,
        sample_rate: int = 16000,
        kernels: Sequence[int] = CONV_KERNELS,
        strides: Sequence[int] = CONV_STRIDES,
    ) -> None:
        super().__init__()
        if legacy_norm and norm == "layer":
            raise ValueError(
                "legacy_norm true has no meaning with norm 'layer', which never sees padding; leave it out"
            )
        if sample_rate < 1:
            raise ValueError(
                f"sample_rate {sample_rate} Hz is not positive; give that of the recordings, such as 16000"
            )
        if not kernels or len(kernels) != len(strides) or min(*kernels, *strides) < 1:
            raise ValueError(
                f"conv_kernels {list(kernels)} and conv_strides {list(strides)}: give a positive number of each for every convolution"
            )
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.feature_dim = conv_dim
        self.stride = math.prod(strides)
        self.field = 1 + sum((kernel - 1) * math.prod(strides[:i]) for i, kernel in enumerate(kernels))
        self.sample_rate = sample_rate
        self.group_norm = MaskedGroupNorm(conv_dim, legacy=legacy_norm) if norm == "group" else None
        self.convs = nn.ModuleList(
            nn.Conv1d(
                1 if i == 0 else conv_dim, conv_dim, kernel, stride, bias=conv_bias and (norm == "layer" or i > 0)
            )
            for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
        )
        self.layer_norms = nn.ModuleList(nn.LayerNorm(conv_dim) for _ in self.convs if norm == "layer")
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]

    def num_frames(self, samples: Count) -> Count:
        """Frames of `samples` samples: floor((n - kernel) / stride) + 1, for each convolution."""
        count = samples
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            count = (count - kernel) // stride + 1
        return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample). Returns (batch, frame, conv_dim), undefined at padding, and (batch,) valid frames.

        ValueError where the batch has not even one frame.
        """
        if self.num_frames(waveform.shape[1]) == 0:
            raise ValueError(
                f"waveform of {waveform.shape[1]} samples has no frame of {self.field}; leave out what is shorter"
            )
        x = waveform.unsqueeze(-1)  # (batch, sample, channel)
        for i, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv1d)
            if i == 0 and self.group_norm is not None:
                windows = waveform.unfold(1, self.kernels[0], self.strides[0])
                valid = (lengths - self.kernels[0]) // self.strides[0] + 1
                x = self.group_norm(windows, conv.weight.squeeze(1), valid.clamp(min=0))
            else:
                x = conv_over_time(x, conv)
            if self.layer_norms:
                x = self.layer_norms[i](x)
            x = F.gelu(x)
        return x, self.num_frames(lengths)


def conv_over_time(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolve (batch, frame, channel) over time, as a channels-last 2-D convolution of height 1.

    Where each channel has a filter of its own, or there is one frame, a processor computes in float32 whatever the precision: in bfloat16, oneDNN never
    finishes to build its kernel for some shapes, as 3 x 84 frames, 80 channels, 15 taps and two threads, and gives weights a gradient that is
    not finite for some of one frame, as 3 x 1, 80 channels, 5 taps and stride 2.
    """
    if x.device.type == "cpu" and (conv.groups == conv.in_channels > 1 or x.shape[1] == 1):
        wide = torch.promote_types(x.dtype, torch.float32)
        bias = None if conv.bias is None else conv.bias.to(wide)
        with torch.autocast("cpu", enabled=False):
            return _convolved(x.to(wide), conv, conv.weight.to(wide), bias).to(x.dtype)
    return _convolved(x, conv, conv.weight, conv.bias)


def _convolved(x: Tensor, conv: nn.Conv1d, weight: Tensor, bias: Tensor | None) -> Tensor:
    image = x.transpose(1, 2).unsqueeze(2)  # (batch, channel, 1, frame), channels last in memory
    kernel = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    padding = conv.padding[0]
    assert isinstance(padding, int)
    y = F.conv2d(image, kernel, bias, (1, conv.stride[0]), (0, padding), groups=conv.groups)
    return y.squeeze(2).transpose(1, 2)


def convolve_frames(x: Tensor, conv: nn.Conv1d, layout: FrameLayout) -> Tensor:
    """Convolve frames over time where they lie in a `FrameLayout`; padding, and frames that take no part, count as zeros."""
    if layout.key_mask is not None:
        x = x.masked_fill(~layout.key_mask[:, 0, 0].unsqueeze(-1), 0.0)
    # Out of the layout and back: in a packed one, neighbours in memory are not always neighbours in time.
    return layout.enter(conv_over_time(layout.leave(x), conv))
