"""Features that depend on what shares the batch: found by trying, mended by running one recording at a time.

The published group norm of wav2vec 2.0 counts padding. Labels and probes must not change with how utterances were batched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from audiossl.contracts import EncoderOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Extract: TypeAlias = Callable[[Tensor, Tensor], EncoderOutput]

_TOLERANCE = 1e-2
"""Relative to the largest feature: rounding is 1e-6, and 1e-3 with TF32; padding in a group norm is above 1e-1."""


def minds_batch_mates(extract: Extract, *, sample_rate: int, min_samples: int) -> bool:
    """Compare the last layer of half a second of noise alone and beside a whole second of it.

    extract: waveform (batch, sample), lengths (batch,) -> EncoderOutput. min_samples: the shortest recording that has a frame.
    """
    half = max(sample_rate // 2, min_samples)
    noise = 0.1 * torch.randn(2, 2 * half, generator=torch.Generator().manual_seed(0))
    noise[1, half:] = 0
    alone = extract(noise[1:, :half], torch.tensor([half])).layers[-1][0]
    beside = extract(noise, torch.tensor([2 * half, half])).layers[-1][1, : len(alone)]
    return bool((alone - beside).abs().max() > _TOLERANCE * alone.abs().max())


def one_by_one(extract: Extract) -> Extract:
    """Return a function that runs `extract` on each recording of a batch alone and pads the frames with 0."""

    def alone(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        outputs = [extract(row[None, : int(n)], n[None]) for row, n in zip(waveform, lengths, strict=True)]
        by_layer = zip(*([frames[0] for frames in output.layers] for output in outputs), strict=True)
        layers = [torch.nn.utils.rnn.pad_sequence(list(frames), batch_first=True) for frames in by_layer]
        return EncoderOutput(layers, torch.cat([output.lengths for output in outputs]))

    return alone
