"""From frames to one vector per utterance, by statistics over time that leave padding out.

All of them take (batch, frame, dim) and (batch,) valid frames, give (batch, out_dim), and compute in float32 or better. What stands in
the padding, even NaN, has no influence on values; standard deviations have a floor, so that a constant feature has a finite gradient.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames

_VARIANCE_FLOOR = 1e-5


class Pooling(Protocol):
    """What a body of a speaker encoder needs of its pooling; always an `nn.Module`."""

    out_dim: int

    def __call__(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames to (batch, out_dim)."""
        ...


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al., 2018), one after the other; the deviation is the biased one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = 2 * dim

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """See the module."""
        return torch.cat(statistics(without_padding(frames, lengths), uniform_weights(frames, lengths)), dim=-1)


class SelfAttentivePooling(nn.Module):
    """Mean over time with one weight per frame (Cai et al., 2018): softmax over t of u . tanh(W x_t + b)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.hidden = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)
        nn.init.xavier_normal_(self.query.weight)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """See the module."""
        frames = without_padding(frames, lengths)
        weights = softmax_over_frames(self.query(torch.tanh(self.hidden(frames))), lengths)
        return (weights * frames).sum(1)


class ChannelAttentivePooling(nn.Module):
    """Mean over time with a weight per frame and feature, softmax over t of V BN(relu(W x_t + b)): Thin ResNet-34's (Lepage and Dehak, 2022).

    A bias after V would be the same for all frames and cancel in the softmax, so there is none. In training the batch norm counts padding.
    """

    def __init__(self, dim: int, bottleneck: int = 128) -> None:
        super().__init__()
        self.out_dim = dim
        self.hidden = nn.Linear(dim, bottleneck)
        self.norm = nn.BatchNorm1d(bottleneck)
        self.query = nn.Linear(bottleneck, dim, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """See the module."""
        frames = without_padding(frames, lengths)
        hidden = self.norm(torch.relu(self.hidden(frames)).transpose(1, 2)).transpose(1, 2)
        return (softmax_over_frames(self.query(hidden), lengths) * frames).sum(1)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over time with a weight per frame and feature (Desplanques et al., 2020, eq. 1 to 4).

    The attention sees each frame beside the unweighted mean and deviation of its utterance. Its last bias, k_c in the paper, cancels in
    the softmax over frames and is left out; the hidden nonlinearity is tanh. normalised: ReLU and a batch norm stand before the tanh, and
    variances are at least 1e-12, as sslsv has it. In training the batch norm counts padding.
    """

    def __init__(self, dim: int, bottleneck: int = 128, *, normalised: bool = False) -> None:
        super().__init__()
        self.out_dim = 2 * dim
        self.floor = 1e-12 if normalised else _VARIANCE_FLOOR
        self.norm = nn.BatchNorm1d(bottleneck) if normalised else None
        self.hidden = nn.Linear(dim, bottleneck)
        self.context = nn.Linear(2 * dim, bottleneck, bias=False)
        self.query = nn.Linear(bottleneck, dim, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """See the module."""
        frames = without_padding(frames, lengths)
        context = torch.cat(statistics(frames, uniform_weights(frames, lengths), self.floor), dim=-1)
        # One matrix on [frame, mean, deviation] is the sum of two, and that of the context is the same for all frames.
        hidden = self.hidden(frames) + self.context(context).unsqueeze(1)
        if self.norm is not None:
            hidden = self.norm(torch.relu(hidden).transpose(1, 2)).transpose(1, 2)
        weights = softmax_over_frames(self.query(torch.tanh(hidden)), lengths)
        return torch.cat(statistics(frames, weights, self.floor), dim=-1)


def uniform_weights(frames: Tensor, lengths: Tensor) -> Tensor:
    """1 / length at valid frames and 0 at padding: (batch, frame, 1) float32 or better."""
    dtype = torch.promote_types(frames.dtype, torch.float32)
    valid = valid_frames(lengths, frames.shape[1]).unsqueeze(-1).to(dtype)
    return valid / lengths.clamp(min=1).view(-1, 1, 1)


def softmax_over_frames(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over the valid frames, 0 at padding. scores: (batch, frame, ...), returned in float32 or better."""
    valid = valid_frames(lengths.clamp(min=1), scores.shape[1])  # a softmax over nothing would be NaN
    valid = valid.view(*valid.shape, *[1] * (scores.ndim - 2))
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).masked_fill(~valid, -torch.inf).softmax(1)


def statistics(frames: Tensor, weights: Tensor, floor: float = _VARIANCE_FLOOR) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation: (batch, dim) each.

    frames: (batch, frame, dim), finite; weights: (batch, frame, dim or 1), summing to 1 over frames. The deviation is taken about the
    mean, not as a difference of large squares, and is at least sqrt(floor).
    """
    mean = (weights * frames).sum(1)
    variance = (weights * (frames - mean.unsqueeze(1)).square()).sum(1)
    return mean, variance.clamp(min=floor).sqrt()


def without_padding(frames: Tensor, lengths: Tensor) -> Tensor:
    """Zero at padding. frames: (batch, frame, dim); lengths: (batch,), valid frames."""
    return frames.masked_fill(~valid_frames(lengths, frames.shape[1]).unsqueeze(-1), 0.0)
