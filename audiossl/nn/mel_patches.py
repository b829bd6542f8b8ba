"""Log-mel filterbanks cut into one patch per frame of an encoder: targets that need no training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.nn.features import fbank
from audiossl.nn.speaker_frontend import instance_normalised

if TYPE_CHECKING:
    from torch import Tensor


def patch_frames(stride: int, sample_rate: int) -> int:
    """Filterbank frames, of 10 ms, per frame of an encoder; ValueError where these are no whole number."""
    hop = sample_rate // 100
    if stride % hop:
        raise ValueError(
            f"the encoder's frames of {stride} samples at {sample_rate} Hz are not a multiple of 10 ms; "
            "choose an encoder with frames of 20 or 40 ms"
        )
    return stride // hop


@torch.no_grad()
def mel_patches(
    waveform: Tensor, lengths: Tensor, *, num_frames: int, stride: int, num_mels: int = 80, sample_rate: int = 16000
) -> Tensor:
    """Stack the filterbank frames that begin within each encoder frame: (batch, frame, stacked * num_mels) float32.

    waveform: (batch, sample); lengths: (batch,), valid samples. num_frames: of the encoder in this batch; stride: samples per frame of it. Every
    filter has zero mean and unit variance over its utterance, as BEST-RQ wants it. Where the last patch of an utterance is cut off, and
    behind it, its last filterbank frame is repeated; so padding is never heard.
    """
    stacked = patch_frames(stride, sample_rate)
    mels, valid = fbank(waveform, lengths, num_mels=num_mels, sample_rate=sample_rate)
    mels = instance_normalised(mels, valid, variance=True)
    place = torch.arange(num_frames * stacked, device=mels.device)
    place = torch.minimum(place, (valid - 1).clamp(min=0).unsqueeze(1))  # (batch, frame * stacked)
    row = torch.arange(len(mels), device=mels.device).unsqueeze(1)
    return mels[row, place].view(len(mels), num_frames, stacked * num_mels)
