"""Features of speaker encoders: a log power-mel spectrogram or Kaldi's filterbank, normalised per utterance over its valid frames.

Windows of 25 ms every 10 ms at 16 kHz, whole windows only: frame t covers the samples from 160 t on. Differs from the centred
spectrogram of torchaudio that the published models were trained on, which reflects half a window at each end: two or three more frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from audiossl.nn.features import fbank, num_windows
from audiossl.nn.masking import valid_frames

if TYPE_CHECKING:
    from audiossl.contracts import Count

SAMPLE_RATE = 16000
HOP = 160
_WINDOW = 400
_FFT = 512
_FLOOR = 1e-6


@dataclass(frozen=True)
class FrontendConfig:
    """What speaker encoders hear; the defaults are those of the contrastive speaker models (Lepage and Dehak, 2024)."""

    features: Literal["mel_hamming", "mel_hann", "fbank"] = "mel_hamming"
    """`mel_...`: see `power_mel`, with that window; mean and variance normalised. `fbank`: Kaldi's, mean normalised."""
    num_mels: int = 40
    preemphasis: float = 0.0
    """Of the whole waveform, before `mel_...`; 0.97 in the models of 2022 and 2023. `fbank` has its own, per window."""
    normalise: Literal["utterance", "none"] = "utterance"
    """`none`, our variant, leaves an utterance its mean spectrum: over a clip of a second it says more of the voice, and of its microphone, than
    it hides."""


class SpeakerFrontend(nn.Module):
    """Waveform to normalised features; it has no weights. dim: features per frame; stride: samples per frame."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        if config.num_mels < 1:
            raise ValueError(f"num_mels {config.num_mels} leaves no feature; give 24, 40 or 80")
        if not 0 <= config.preemphasis < 1:
            raise ValueError(f"preemphasis {config.preemphasis} is not in [0, 1); give 0.97, or 0 for none")
        if config.preemphasis and config.features == "fbank":
            raise ValueError(
                f"preemphasis {config.preemphasis}: features 'fbank' have their own; leave it out, or take 'mel_hamming'"
            )
        self.config = config
        self.dim = config.num_mels
        self.stride = HOP
        self.sample_rate = SAMPLE_RATE

    def num_frames(self, samples: Count) -> Count:
        """Whole windows in `samples` samples."""
        return num_windows(samples, sample_rate=SAMPLE_RATE)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample) in [-1, 1]. Returns (batch, frame, num_mels) float32, zero at padding, and (batch,) valid frames."""
        config = self.config
        if config.features == "fbank":
            features, frames = fbank(waveform, lengths, num_mels=config.num_mels, sample_rate=SAMPLE_RATE)
            return self._normalised(features, frames, variance=False), frames
        window: Literal["hamming", "hann"] = "hamming" if config.features == "mel_hamming" else "hann"
        if config.preemphasis:
            waveform = preemphasised(waveform, config.preemphasis)
        features, frames = power_mel(waveform, lengths, num_mels=config.num_mels, window=window)
        return self._normalised(features, frames, variance=True), frames

    def _normalised(self, features: Tensor, frames: Tensor, *, variance: bool) -> Tensor:
        if self.config.normalise == "utterance":
            return instance_normalised(features, frames, variance=variance)
        return features.masked_fill(~valid_frames(frames, features.shape[1]).unsqueeze(-1), 0.0)


def power_mel(
    waveform: Tensor, lengths: Tensor, *, num_mels: int = 40, window: Literal["hamming", "hann"] = "hamming"
) -> tuple[Tensor, Tensor]:
    """Natural logarithm of the power-mel spectrogram plus 1e-6: (batch, frame, num_mels), undefined at padding, and (batch,) valid frames.

    Periodic window of 400 samples, transform of 512, triangles of height 1 that are linear in Hz, with corners evenly spaced on the mel
    scale 2595 log10(1 + f / 700) from 0 Hz to 8 kHz: the definition of torchaudio. Unlike Kaldi's, the waveform is not scaled.
    Computed in float32 whatever autocast says. ValueError where the batch has not even one window.
    """
    if waveform.shape[1] < _WINDOW:
        raise ValueError(
            f"waveform of {waveform.shape[1]} samples has no window of {_WINDOW}; leave out what is shorter"
        )
    device = waveform.device
    with torch.autocast(device.type, enabled=False):
        frames = waveform.float().unfold(1, _WINDOW, HOP) * _window(window, device)  # (batch, frame, sample)
        spectrum = torch.fft.rfft(frames, n=_FFT)
        power = torch.view_as_real(spectrum).square().sum(-1)  # (batch, frame, bin)
        mels = (power @ _mel_filters(num_mels, device) + _FLOOR).log()
    return mels, num_windows(lengths, sample_rate=SAMPLE_RATE)


def preemphasised(waveform: Tensor, coefficient: float) -> Tensor:
    """x[t] - coefficient * x[t - 1], with x[1] for the sample before the first, as the published models reflect it."""
    previous = torch.cat([waveform[:, 1:2], waveform[:, :-1]], dim=1)
    return waveform - coefficient * previous


def instance_normalised(features: Tensor, lengths: Tensor, *, variance: bool, eps: float = 1e-5) -> Tensor:
    """Zero mean, and unit variance if `variance`, of each feature over the valid frames of its utterance; zero at padding.

    features: (batch, frame, feature); lengths: (batch,), valid frames. eps is added to the (biased) variance, as in Ulyanov et al.
    (2016). Computed in float32 or better.
    """
    valid = valid_frames(lengths, features.shape[1]).unsqueeze(-1)
    count = lengths.clamp(min=1).view(-1, 1, 1)
    with torch.autocast(features.device.type, enabled=False):
        if features.dtype in {torch.float16, torch.bfloat16}:
            features = features.float()
        mean = features.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count
        centred = (features - mean).masked_fill(~valid, 0.0)
        if not variance:
            return centred
        return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + eps)


@lru_cache(maxsize=16)
def _window(name: Literal["hamming", "hann"], device: torch.device) -> Tensor:
    cosine = np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    return _constant(0.54 - 0.46 * cosine if name == "hamming" else 0.5 - 0.5 * cosine, device)


@lru_cache(maxsize=16)
def _mel_filters(num_mels: int, device: torch.device) -> Tensor:
    """Filters as a matrix (bin, mel)."""
    top = 2595.0 * np.log10(1 + SAMPLE_RATE / 2 / 700.0)
    corners = 700.0 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595.0) - 1)  # Hz
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)[:, None]
    return _constant(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0), device)


def _constant(values: np.ndarray, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # a constant first made in inference mode could never be used in training
        return torch.from_numpy(values.astype(np.float32)).to(device)
