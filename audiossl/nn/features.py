"""Kaldi's log-mel filterbank and MFCC, batched, in torch: 25 ms windows every 10 ms, no dither, whole windows only.

Waveforms are in [-1, 1] and scaled here to 16-bit range as Kaldi reads them, unless `full_scale` says otherwise. All functions take (batch, sample) and (batch,)
lengths in samples, and give (batch, frame, feature), zero at padding, and (batch,) lengths in frames; frame t covers the samples from
10 ms * t on. Equations: the HTK Book, chapter 5, with Kaldi's "povey" window. Computed in float32 whatever autocast says.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audiossl.nn.masking import valid_frames

if TYPE_CHECKING:
    from audiossl.contracts import Count

_PREEMPHASIS = 0.97
_LIFTER = 22.0
_LOW_HZ = 20.0
_FULL_SCALE = 32768.0
_FLOOR = float(np.finfo(np.float32).eps)

MFCC39 = 39
"""Features of `mfcc39`."""


def num_windows(samples: Count, *, sample_rate: int = 16000) -> Count:
    """Whole 25 ms windows, 10 ms apart, in `samples` samples."""
    window, hop = _window_and_hop(sample_rate)
    count = (samples - window) // hop + 1
    return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)


def fbank(
    waveform: Tensor,
    lengths: Tensor,
    *,
    num_mels: int = 80,
    sample_rate: int = 16000,
    full_scale: float = _FULL_SCALE,
) -> tuple[Tensor, Tensor]:
    """Log-mel filterbank: (batch, frame, num_mels) natural logarithms of filter energies from 20 Hz to the Nyquist frequency.

    full_scale: what 1 in the waveform becomes; 1 where Kaldi's code is given waveforms in [-1, 1], whose quiet frames then lie below the floor of energies.
    ValueError where the batch has not even one window.
    """
    window, hop = _window_and_hop(sample_rate)
    if waveform.shape[1] < window:
        raise ValueError(
            f"waveform of {waveform.shape[1]} samples has no window of {window}; leave out what is shorter"
        )
    device = waveform.device
    size = 1 << (window - 1).bit_length()
    with torch.autocast(device.type, enabled=False):
        frames = waveform.float().unfold(1, window, hop) * full_scale  # (batch, frame, sample)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - _PREEMPHASIS * previous) * _window(window, device), n=size)
        power = torch.view_as_real(spectrum).square().sum(-1)  # (batch, frame, bin)
        mels = (power @ _mel_filters(num_mels, size, sample_rate, device)).clamp(min=_FLOOR).log()
    return _padded(mels, num_windows(lengths, sample_rate=sample_rate))


def mfcc(
    waveform: Tensor,
    lengths: Tensor,
    *,
    num_cepstra: int = 13,
    num_mels: int = 23,
    sample_rate: int = 16000,
    full_scale: float = _FULL_SCALE,
) -> tuple[Tensor, Tensor]:
    """Mel cepstra with the zeroth instead of the energy, liftered by 22: (batch, frame, num_cepstra). full_scale: see `fbank`."""
    if num_cepstra > num_mels:
        raise ValueError(f"num_cepstra {num_cepstra} is more than the {num_mels} mel filters; give at most {num_mels}")
    mels, frames = fbank(waveform, lengths, num_mels=num_mels, sample_rate=sample_rate, full_scale=full_scale)
    with torch.autocast(waveform.device.type, enabled=False):
        return mels @ _cepstra(num_cepstra, num_mels, waveform.device), frames


def deltas(features: Tensor, lengths: Tensor, *, window: int = 5) -> Tensor:
    """Slope of each feature by linear regression over `window` frames (HTK Book, eq. 5.16), the end frames repeated at the ends.

    features: (batch, frame, feature); lengths: (batch,), valid frames. Returns the same shape, zero at padding.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window {window} of the deltas has no middle; give an odd number from 3 on")
    reach = window // 2
    frame = torch.arange(features.shape[1], device=features.device)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    row = torch.arange(features.shape[0], device=features.device).unsqueeze(1)
    slope = torch.zeros_like(features)
    for distance in range(1, reach + 1):
        after = features[row, (frame + distance).minimum(last)]
        before = features[row, (frame - distance).clamp(min=0).minimum(last)]
        slope += distance * (after - before)
    return _padded(slope / (2 * sum(n * n for n in range(1, reach + 1))), lengths)[0]


def mfcc39(
    waveform: Tensor, lengths: Tensor, *, sample_rate: int = 16000, full_scale: float = _FULL_SCALE
) -> tuple[Tensor, Tensor]:
    """13 MFCC with their deltas and the deltas of these: (batch, frame, 39), the first labels of HuBERT (Hsu et al., 2021, section IV.B).

    full_scale: see `fbank`; 1 for HuBERT's units, as published. Where cepstra are an input, a regression target or a baseline, no code is followed,
    and they keep Kaldi's range.
    """
    cepstra, frames = mfcc(waveform, lengths, sample_rate=sample_rate, full_scale=full_scale)
    slope = deltas(cepstra, frames)
    return torch.cat([cepstra, slope, deltas(slope, frames)], dim=-1), frames


def _padded(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return features.masked_fill(~valid_frames(lengths, features.shape[1]).unsqueeze(-1), 0.0), lengths


def _window_and_hop(sample_rate: int) -> tuple[int, int]:
    if sample_rate < 1000:
        raise ValueError(f"sample_rate {sample_rate} is too low for speech features; give samples per second")
    return sample_rate * 25 // 1000, sample_rate // 100


@lru_cache(maxsize=16)
def _window(size: int, device: torch.device) -> Tensor:
    """Kaldi's "povey" window: a Hann window that does reach 0 at its ends, to the power 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(size) / (size - 1))
    return _constant(hann**0.85, device)


@lru_cache(maxsize=16)
def _mel_filters(num_mels: int, fft_size: int, sample_rate: int, device: torch.device) -> Tensor:
    """Triangles on the mel scale 1127 ln(1 + f / 700): (bin, mel); the Nyquist bin is in none."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))

    edges = np.linspace(mel(_LOW_HZ), mel(sample_rate / 2), num_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(fft_size // 2) * sample_rate / fft_size)[:, None]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0)
    return _constant(np.concatenate([triangles, np.zeros((1, num_mels))]), device)


@lru_cache(maxsize=16)
def _cepstra(num_cepstra: int, num_mels: int, device: torch.device) -> Tensor:
    """Orthonormal cosine transform (type II) and sine lifter 1 + L/2 sin(pi k / L) in one matrix: (mel, cepstrum)."""
    k = np.arange(num_cepstra)
    transform = math.sqrt(2 / num_mels) * np.cos(math.pi / num_mels * np.outer(np.arange(num_mels) + 0.5, k))
    transform[:, 0] = math.sqrt(1 / num_mels)
    return _constant(transform * (1 + _LIFTER / 2 * np.sin(math.pi * k / _LIFTER)), device)


def _constant(values: np.ndarray, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # a constant first made in inference mode could never be used in training
        return torch.from_numpy(values.astype(np.float32)).to(device)
