"""Warp features in time: the first of SpecAugment's three changes (Park et al., 2019, section 2), by cubic interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHARPNESS = -0.75
"""Free parameter of the cubic kernel (Keys, 1981), as torch's bicubic interpolation has it."""


def time_warp(features: Tensor, lengths: Tensor, *, window: int, generator: torch.Generator) -> Tensor:
    """Move one frame of each utterance by up to `window` frames and stretch what is left and right of it to fit.

    features: (batch, frame, channel); lengths: (batch,) valid frames; padding is left alone, and so are utterances of at most
    2 x window frames. The frame c is uniform on window ... length - window - 1, its new place on c - window + 1 ... c + window,
    as the SUPERB code draws them.
    """
    frames = lengths.to(generator.device)
    long = frames > 2 * window
    if window < 1 or not bool(long.any()):
        return features
    random = torch.rand(2, len(frames), generator=generator, device=generator.device, dtype=torch.float64)
    center = window + (random[0] * (frames - 2 * window).clamp_min(1)).long()
    place = center - window + 1 + (random[1] * 2 * window).long()
    source, low, high = _sources(
        frames, torch.where(long, center, frames), torch.where(long, place, frames), features.shape[1]
    )
    return _cubic(features, source.to(features.device), low.to(features.device), high.to(features.device))


def _sources(lengths: Tensor, center: Tensor, place: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each frame comes from, and the first and last frame of the piece that it may see: (batch, frame) each."""
    frame = torch.arange(num_frames, device=lengths.device).expand(len(lengths), -1)
    length, center, place = lengths[:, None], center[:, None], place[:, None]
    middle = frame.double() + 0.5
    left = middle * center / place.clamp_min(1) - 0.5
    right = (middle - place) * (length - center) / (length - place).clamp_min(1) - 0.5 + center
    is_left, padding = frame < place, frame >= length
    low, high = torch.where(is_left, 0, center), torch.where(is_left, center, length) - 1
    source = torch.where(padding, middle - 0.5, torch.where(is_left, left, right))
    return source, torch.where(padding, frame, low), torch.where(padding, frame, high)


def _cubic(features: Tensor, source: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Interpolate between four frames each; those beyond the piece are its border's."""
    first = source.floor()
    total = torch.zeros_like(features)
    for tap in (-1, 0, 1, 2):
        index = torch.minimum(torch.maximum(first.long() + tap, low), high)
        weight = _kernel((source - first - tap).abs()).to(features.dtype)
        total = total + weight[..., None] * features.gather(1, index[..., None].expand_as(features))
    return total


def _kernel(x: Tensor) -> Tensor:
    near = (_SHARPNESS + 2) * x**3 - (_SHARPNESS + 3) * x**2 + 1
    far = _SHARPNESS * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, far)
