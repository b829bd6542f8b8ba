"""SpecAugment: hide bands of time and of frequency of the features that a model is fine-tuned on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def spec_augment(
    features: Tensor,
    lengths: Tensor,
    *,
    generator: torch.Generator,
    num_time_masks: int = 2,
    time_width: int = 100,
    time_fraction: float = 1.0,
    num_frequency_masks: int = 2,
    frequency_width: int = 27,
    value: float = 0.0,
) -> Tensor:
    """Return a copy of the features with masks of time and frequency set to `value`.

    features: (batch, frame, channel); lengths: (batch,) valid frames; padding is left alone. Each time mask covers t frames
    from t0, t uniform on 0 ... min(time_width, time_fraction x length), t0 uniform on 0 ... length - t; frequency masks
    likewise on channels. `value` is the mean of normalised features. D. S. Park et al., "SpecAugment", Interspeech 2019,
    section 2, policy LD; without time warping, which the paper finds to help least. The masks are drawn on the generator's device.
    """
    if not 0 <= time_fraction <= 1:
        raise ValueError(f"time_fraction is {time_fraction}; give a number from 0 to 1")
    if min(num_time_masks, time_width, num_frequency_masks, frequency_width) < 0:
        raise ValueError("numbers and widths of masks are counts; give 0 or more")
    _, num_frames, num_channels = features.shape
    frames = lengths.to(generator.device)
    channels = torch.full_like(frames, num_channels)
    widest = (frames * time_fraction).long().clamp(max=time_width)
    hidden_frames = _bands(frames, widest, num_time_masks, num_frames, generator)
    hidden_channels = _bands(
        channels, channels.clamp(max=frequency_width), num_frequency_masks, num_channels, generator
    )
    valid = torch.arange(num_frames, device=frames.device) < frames[:, None]  # (batch, frame)
    hidden = valid[:, :, None] & (hidden_frames[:, :, None] | hidden_channels[:, None, :])
    return features.masked_fill(hidden.to(features.device), value)


def _bands(lengths: Tensor, widest: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw `count` bands for each row, of 0 to `widest` places inside the first `lengths`; (batch, size) bool, their union."""
    random = torch.rand(2, lengths.numel(), count, generator=generator, device=generator.device, dtype=torch.float64)
    width = (random[0] * (widest[:, None] + 1)).long()
    start = (random[1] * (lengths[:, None] - width + 1)).long()
    place = torch.arange(size, device=generator.device)
    inside = (place >= start[..., None]) & (place < (start + width)[..., None])  # (batch, band, place)
    return inside.any(dim=1)
