"""A cheap frontend: 80 log-mel filters, or MFCC, at 100 Hz and two strided convolutions, as in Fast-HuBERT (Yang et al., 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.conv_frontend import conv_over_time
from audiossl.nn.features import MFCC39, fbank, mfcc39, num_windows
from audiossl.nn.masking import valid_frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from audiossl.contracts import Count

_KERNEL = 5


class FbankFrontend(nn.Module):
    """Log-mel filterbank or MFCC, global mean and variance normalisation, convolutions of kernel 5 with a gate.

    inputs: "log_mel", of num_mels filters, or "mfcc", 13 cepstra with their slopes and the slopes of these, whose filters are their own. strides: (2, 1) gives 50 Hz, (2, 2) the 25 Hz of Fast-HuBERT. With strides (2, 1), frame t is centred on the window of 400 samples
    that starts at sample 320 t and there are as many frames as wav2vec 2.0 has; it also hears two filterbank frames to each side, and
    two more frames through the second convolution. conv_dim: channels after each gate. mean_norm: whether each utterance's own mean over
    time is taken off its inputs, and with it its level and what a microphone or voice colours throughout.
    mean, std: (input,) buffers; 0 and 1 until `calibrate` is given those of the training data (they are saved with the weights).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        num_mels: int = 80,
        conv_dim: int = 512,
        strides: tuple[int, ...] = (2, 1),
        activation: Literal["glu", "gelu"] = "glu",
        mean_norm: bool = False,
        inputs: Literal["log_mel", "mfcc"] = "log_mel",
    ) -> None:
        super().__init__()
        if not strides or min(strides) < 1:
            raise ValueError(f"strides {strides} are no strides; give one whole number per convolution, such as (2, 1)")
        self.feature_dim = conv_dim
        self._inputs_per_frame = math.prod(strides)
        self.stride = 160 * self._inputs_per_frame
        self.sample_rate = 16000
        self.inputs, self.num_mels = inputs, num_mels
        num_inputs = num_mels if inputs == "log_mel" else MFCC39
        self.activation = activation
        self.mean_norm = mean_norm
        width = 2 * conv_dim if activation == "glu" else conv_dim
        self.convs = nn.ModuleList(
            nn.Conv1d(num_inputs if i == 0 else conv_dim, width, _KERNEL, stride, padding=_KERNEL // 2)
            for i, stride in enumerate(strides)
        )
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("std", torch.ones(num_inputs))

    def calibrate(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation, (input,), by which inputs are normalised."""
        if mean.shape != self.mean.shape or std.shape != self.std.shape or not bool((std > 0).all()):
            raise ValueError(
                f"mean and std must be {len(self.mean)} values each, std above 0; compute them from speech"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)

    @torch.no_grad()
    def measure(self, waveforms: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Calibrate on batches (waveform, lengths), read once and not kept.

        ValueError where they hold fewer than two frames, or a filter that never changes.
        """
        count, total, squares = 0, *(torch.zeros(len(self.mean), dtype=torch.float64) for _ in range(2))
        for waveform, lengths in waveforms:
            features, frames = self.features(waveform, lengths)
            valid = features[valid_frames(frames, features.shape[1])].double().cpu()
            count += len(valid)
            total += valid.sum(0)
            squares += valid.square().sum(0)
        if count < 2:
            raise ValueError(f"calibration: {count} frames of speech; give recordings with at least two frames")
        mean = total / count
        self.calibrate(mean, (squares / count - mean.square()).clamp(min=0).sqrt())

    def features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs before normalisation: (batch, frame, input) at 100 Hz, and (batch,) valid frames."""
        with torch.no_grad():
            if self.inputs == "mfcc":
                return mfcc39(waveform, lengths, sample_rate=self.sample_rate)
            return fbank(waveform, lengths, num_mels=self.num_mels, sample_rate=self.sample_rate)

    def num_frames(self, samples: Count) -> Count:
        """Frames of `samples` samples: the whole windows, divided by each stride and rounded up."""
        count = num_windows(samples, sample_rate=self.sample_rate)
        for stride in self._strides():
            count = _strided(count, stride)
        return count

    def forward(
        self, waveform: Tensor, lengths: Tensor, *, hidden: Tensor | None = None, noise_std: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample). Returns (batch, frame, conv_dim), zero at padding, and (batch,) valid frames.

        hidden: (batch, frame) bool, of the frames returned; the normalised inputs that begin within a hidden one become N(0, noise_std^2), and no mean
        over time counts them.
        """
        x, frames = self.features(waveform, lengths)
        valid = valid_frames(frames, x.shape[1])
        heard = (
            valid if hidden is None else valid & ~hidden.repeat_interleave(self._inputs_per_frame, 1)[:, : x.shape[1]]
        )
        x = ((x - self.mean) / self.std).masked_fill(~heard.unsqueeze(-1), 0.0)
        if self.mean_norm:
            own = x.sum(1, keepdim=True) / heard.sum(1).clamp(min=1).view(-1, 1, 1)
            x = (x - own).masked_fill(~heard.unsqueeze(-1), 0.0)
        if noise_std:
            x = torch.where((valid & ~heard).unsqueeze(-1), noise_std * torch.randn_like(x), x)
        for conv, stride in zip(self.convs, self._strides(), strict=True):
            assert isinstance(conv, nn.Conv1d)
            x = conv_over_time(x, conv)
            x = F.glu(x, dim=-1) if self.activation == "glu" else F.gelu(x)
            frames = _strided(frames, stride)
            x = _zero_padding(x, frames)
        return x, frames

    def _strides(self) -> list[int]:
        return [conv.stride[0] for conv in self.convs if isinstance(conv, nn.Conv1d)]


def _strided(count: Count, stride: int) -> Count:
    return (count + stride - 1) // stride


def _zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    return x.masked_fill(~valid_frames(lengths, x.shape[1]).unsqueeze(-1), 0.0)
