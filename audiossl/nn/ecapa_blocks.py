"""ECAPA-TDNN (Desplanques et al., 2020) from features to embedding, for a spectrogram or for the layers of another encoder.

Blocks take (batch, channel, frame); what convolutions read at padding is zero, or where they reflect, the mirror image of what is before it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.contracts import EncoderOutput
from audiossl.nn.speaker_encoder import validity, zero_padding
from audiossl.nn.statistics_pooling import AttentiveStatisticsPooling


class TimeConv(nn.Module):
    """Dilated convolution that keeps the number of frames, ReLU, batch norm: the layer of all time-delay networks.

    reflect: beyond both ends of an utterance it reads the mirror image, not zeros.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int = 1, dilation: int = 1, *, reflect: bool = False
    ) -> None:
        super().__init__()
        reach = dilation * (kernel // 2)
        self.mirrored = reach if reflect else 0
        self.conv = nn.Conv1d(in_channels, channels, kernel, dilation=dilation, padding=0 if reflect else reach)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: (batch, in_channels, frame). valid: (batch, 1, frame) bool, or None if all are. Undefined at padding."""
        if self.mirrored:
            x = mirrored(x, valid, self.mirrored)
        elif self.conv.kernel_size[0] > 1:
            x = zero_padding(x, valid)
        y: Tensor = self.norm(torch.relu(self.conv(x)))
        return y


class Res2Conv(nn.Module):
    """`scale` groups of channels, each convolved after the result of the one before is added (Gao et al., 2021, eq. 1).

    y_1 = x_1, y_2 = K_2(x_2), y_i = K_i(x_i + y_{i-1}).
    """

    def __init__(self, channels: int, *, kernel: int, dilation: int, scale: int, reflect: bool = False) -> None:
        super().__init__()
        if channels % scale:
            raise ValueError(f"channels {channels} are not a multiple of scale {scale}; change one of the two")
        width = channels // scale
        self.scale = scale
        self.convs = nn.ModuleList(TimeConv(width, width, kernel, dilation, reflect=reflect) for _ in range(scale - 1))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(batch, channels, frame), and the same shape back."""
        first, *groups = x.chunk(self.scale, dim=1)
        results = [first]
        for i, (group, conv) in enumerate(zip(groups, self.convs, strict=True)):
            results.append(conv(group + results[-1] if i else group, valid))
        return torch.cat(results, dim=1)


class SERes2Block(nn.Module):
    """1 x 1 convolution, `Res2Conv`, 1 x 1 convolution, squeeze and excitation, and the input added (section 3.2 and figure 1)."""

    def __init__(self, channels: int, *, dilation: int, scale: int, bottleneck: int, reflect: bool = False) -> None:
        super().__init__()
        self.enter = TimeConv(channels, channels)
        self.res2 = Res2Conv(channels, kernel=3, dilation=dilation, scale=scale, reflect=reflect)
        self.leave = TimeConv(channels, channels)
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor, lengths: Tensor, valid: Tensor | None) -> Tensor:
        """(batch, channels, frame), and the same shape back. lengths: (batch,), valid frames."""
        y = self.leave(self.res2(self.enter(x, valid), valid), valid)
        mean = zero_padding(y, valid).sum(2) / lengths.clamp(min=1).unsqueeze(1)  # eq. 5
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))  # eq. 6
        result: Tensor = y * gate.unsqueeze(2) + x
        return result


class EcapaBody(nn.Module):
    """From features to embedding, as figure 2 of the paper says it.

    Layers of frames are the first convolution and each SE-Res2Block. A block's input is the sum of all outputs before it, and the
    outputs of all blocks are aggregated, pooled with attention, normalised and projected (section 3.3). pooled_dim: features after the
    aggregation. variant: in `sslsv`'s a block reads only the one before it, a batch norm follows the aggregation, none the embedding, the
    attention has one (`AttentiveStatisticsPooling`), and convolutions reflect.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        channels: int,
        pooled_dim: int,
        embedding_dim: int,
        dilations: tuple[int, ...] = (2, 3, 4),
        scale: int = 8,
        bottleneck: int = 128,
        variant: Literal["paper", "sslsv"] = "paper",
    ) -> None:
        super().__init__()
        self.paper = variant == "paper"
        reflect = not self.paper
        self.dim = channels
        self.num_layers = len(dilations)
        self.embedding_dim = embedding_dim
        self.time_stride = 1
        self.enter = TimeConv(in_dim, channels, 5, reflect=reflect)
        self.blocks = nn.ModuleList(
            SERes2Block(channels, dilation=dilation, scale=scale, bottleneck=bottleneck, reflect=reflect)
            for dilation in dilations
        )
        self.aggregate = nn.Conv1d(channels * len(dilations), pooled_dim, 1)
        self.aggregate_norm = nn.Identity() if self.paper else nn.BatchNorm1d(pooled_dim)
        self.pooling = AttentiveStatisticsPooling(pooled_dim, bottleneck, normalised=not self.paper)
        self.pooled_norm = nn.BatchNorm1d(self.pooling.out_dim)
        self.embedding = nn.Linear(self.pooling.out_dim, embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim) if self.paper else nn.Identity()

    def frame_layers(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """features: (batch, frame, in_dim); lengths: (batch,), valid frames. Layers are undefined at padding."""
        valid = validity(lengths, features.shape[1])
        if valid is not None:
            valid = valid.unsqueeze(1)
        outputs = [self.enter(features.transpose(1, 2), valid)]
        entering = outputs[0]
        for block in self.blocks:
            outputs.append(block(entering, lengths, valid))
            entering = entering + outputs[-1] if self.paper else outputs[-1]
        return EncoderOutput([output.transpose(1, 2) for output in outputs], lengths)

    def pool(self, output: EncoderOutput) -> Tensor:
        """Embedding (batch, embedding_dim) of what `frame_layers` gave."""
        blocks = torch.cat([layer.transpose(1, 2) for layer in output.layers[1:]], dim=1)
        aggregated = self.aggregate_norm(torch.relu(self.aggregate(blocks))).transpose(1, 2)
        pooled = self.pooled_norm(self.pooling(aggregated, output.lengths))
        embedding: Tensor = self.embedding_norm(self.embedding(pooled))
        return embedding


def mirrored(x: Tensor, valid: Tensor | None, reach: int) -> Tensor:
    """Put the mirror image of an utterance, `reach` frames of it, before its first and behind its last frame.

    x: (batch, channel, frame). valid: (batch, 1, frame) bool, or None if all are. Returns (batch, channel, frame + 2 reach), undefined behind the
    image. Of an utterance of no more than `reach` frames the rest of the image is some frame of it.
    """
    frames = x.shape[2]
    if valid is None and frames > reach:
        return F.pad(x, (reach, reach), mode="reflect")
    last = x.new_full((len(x), 1), frames - 1, dtype=torch.long) if valid is None else valid.sum(2) - 1
    place = torch.arange(-reach, frames + reach, device=x.device).abs()
    place = torch.minimum(place, 2 * last - place).clamp(min=0)  # (batch, frame)
    return x.gather(2, place.unsqueeze(1).expand(-1, x.shape[1], -1))
