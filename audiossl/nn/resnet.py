"""Residual networks on a spectrogram with squeeze and excitation: what Fast ResNet-34 and Thin ResNet-34 share.

Maps are (batch, channel, frame, bin) with channels last in memory; time is the longer side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from audiossl.contracts import EncoderOutput
from audiossl.nn.speaker_encoder import strided

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiossl.nn.statistics_pooling import Pooling

_SQUEEZE = 8
# With 8, the gradient of torch 2.13's strided channels-last convolution overwrites memory on some processors.
_FEWEST_CHANNELS = 16


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a residual network.

    stem_kernel, stem_stride: of the first convolution, the stride over bins alone. stem: what follows it, batch norm and ReLU, or ReLU and
    batch norm, where it has a bias. blocks, strides: of each stage, the stride in time
    and over bins; stage i has 2^i times `base_channels`.
    """

    stem_kernel: int
    stem_stride: int
    base_channels: int
    strides: tuple[int, ...]
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    stem: Literal["norm_relu", "relu_norm"] = "norm_relu"

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.strides) or min(self.blocks, default=0) < 1:
            raise ValueError(
                f"blocks {self.blocks} must be {len(self.strides)} numbers from 1 on; the paper's are (3, 4, 6, 3)"
            )
        if self.base_channels < _FEWEST_CHANNELS:
            raise ValueError(f"base_channels {self.base_channels} is too few; give {_FEWEST_CHANNELS} or more")


class ResNetBody(nn.Module):
    """Residual stages, pooling and a linear layer (He et al., 2016, with the squeeze and excitation of Hu et al., 2018).

    mean_over_bins: frames are the mean over frequency, (batch, frame, channel), else all of it, (batch, frame, channel * bin).
    There is one layer of frames, as those of earlier stages have other rates and sizes: `num_layers` is 0.
    """

    def __init__(
        self,
        num_mels: int,
        shape: ResNetShape,
        *,
        mean_over_bins: bool,
        pooling: Callable[[int], Pooling],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        channels, bins = shape.base_channels, strided(num_mels, shape.stem_stride)
        self.relu_first = shape.stem == "relu_norm"
        self.stem = nn.Conv2d(
            1, channels, shape.stem_kernel, (1, shape.stem_stride), padding=shape.stem_kernel // 2, bias=self.relu_first
        )
        self.stem_norm: nn.Module = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList()
        for stage, (count, stride) in enumerate(zip(shape.blocks, shape.strides, strict=True)):
            width = shape.base_channels << stage
            self.blocks.append(SEResidualBlock(channels, width, stride=stride))
            self.blocks.extend(SEResidualBlock(width, width) for _ in range(count - 1))
            channels, bins = width, strided(bins, stride)
        self.mean_over_bins = mean_over_bins
        self.num_layers = 0
        self.dim = channels if mean_over_bins else channels * bins
        self.time_stride = math.prod(shape.strides)
        self.embedding_dim = embedding_dim
        self.pooling = pooling(self.dim)
        self.embedding = nn.Linear(self.pooling.out_dim, embedding_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def frame_layers(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """features: (batch, frame, mel), zero at padding. Returns one layer of frames, zero at padding."""
        maps = features.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        valid = _valid_tail(lengths, maps.shape[2])
        maps = self.stem(maps)
        maps = zero_tail(self.stem_norm(maps.relu_() if self.relu_first else maps), valid)
        maps = maps if self.relu_first else maps.relu_()
        for block in self.blocks:
            assert isinstance(block, SEResidualBlock)
            if block.stride > 1:
                lengths = strided(lengths, block.stride)
                valid = None if valid is None else _valid_tail(lengths, strided(maps.shape[2], block.stride))
            maps = block(maps, lengths, valid)
        maps = maps.transpose(1, 2)  # (batch, frame, channel, bin)
        return EncoderOutput([maps.mean(3) if self.mean_over_bins else maps.flatten(2)], lengths)

    def fold_norms(self) -> None:
        """Make every batch norm that follows a convolution part of it, for inference alone: the same embeddings to rounding.

        In eval mode only; there are fewer parameters afterwards. One that follows a ReLU, as the first of a block, stays: what it adds must not
        reach the zeros around the maps.
        """
        assert isinstance(self.stem_norm, nn.BatchNorm2d)
        if not self.relu_first:
            self.stem, self.stem_norm = fuse_conv_bn_eval(self.stem, self.stem_norm), nn.Identity()
        for block in self.blocks:
            assert isinstance(block, SEResidualBlock)
            block.fold_norms()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def pool(self, output: EncoderOutput) -> Tensor:
        """Embedding (batch, embedding_dim) of the frames."""
        embedding: Tensor = self.embedding(self.pooling(output.layers[-1], output.lengths))
        return embedding


class SEResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, squeeze and excitation, and the identity, or a strided 1 x 1 convolution where the shape changes.

    The first batch norm follows its ReLU, as in the models that were published (Chung et al., 2020).
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels)
        self.squeeze = nn.Linear(channels, channels // _SQUEEZE)
        self.excite = nn.Linear(channels // _SQUEEZE, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor, lengths: Tensor, valid: Tensor | None) -> Tensor:
        """maps: (batch, in_channels, frame, bin), zero at padding. Returns (batch, channels, frame, bin), zero at padding.

        lengths: (batch,), valid frames of the output; valid: of its last frames, those of which any is padding, see `zero_tail`.
        """
        x = zero_tail(self.norm1(self.conv1(maps).relu_()), valid)
        x = zero_tail(self.norm2(self.conv2(x)), valid)
        mean = x.mean((2, 3)) * (x.shape[2] / lengths.clamp(min=1).unsqueeze(1))  # over valid frames: the others are 0
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        shortcut = maps if isinstance(self.shortcut, nn.Identity) else zero_tail(self.shortcut(maps), valid)
        return (x * gate[:, :, None, None]).add_(shortcut).relu_()

    def fold_norms(self) -> None:
        """See `ResNetBody.fold_norms`."""
        assert isinstance(self.norm2, nn.BatchNorm2d)
        self.conv2, self.norm2 = fuse_conv_bn_eval(self.conv2, self.norm2), nn.Identity()
        if isinstance(self.shortcut, nn.Sequential):
            self.shortcut = fuse_conv_bn_eval(*self.shortcut)


def zero_tail(maps: Tensor, valid: Tensor | None) -> Tensor:
    """Zero padding in place, as convolutions must see it. maps: (batch, channel, frame, bin).

    valid: (batch, 1, tail, 1) bool of the last frames, those before being valid in all rows; None if all are. In a length bucket the tail is
    short, and only it is touched.
    """
    if valid is not None:
        maps[:, :, maps.shape[2] - valid.shape[2] :].masked_fill_(~valid, 0.0)
    return maps


def _valid_tail(lengths: Tensor, num_frames: int) -> Tensor | None:
    shortest = int(lengths.min())
    if shortest >= num_frames:
        return None
    return (torch.arange(shortest, num_frames, device=lengths.device) < lengths.unsqueeze(1))[:, None, :, None]
