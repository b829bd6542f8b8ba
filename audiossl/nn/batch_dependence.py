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

TOLERANCE = 4e-3
"""Of float32: rounding is 2e-6, and below 3e-3 with TF32; padding in a group norm is above 1e-1."""


def minds_batch_mates(extract: Extract, *, sample_rate: int, min_samples: int, tolerance: float = TOLERANCE) -> bool:
    """Compare every layer of half a second of noise, and of a sample more, alone and beside a whole second of it.

    The sample more begins another hop, whose frame some count that give none for it.

    extract: waveform (batch, sample), lengths (batch,) -> EncoderOutput. min_samples: the shortest recording that has a frame. tolerance: relative to the
    largest feature of a layer.
    """
    half = max(sample_rate // 2, min_samples)
    return any(_minds(extract, samples, tolerance) for samples in (half, half + 1))


def _minds(extract: Extract, samples: int, tolerance: float) -> bool:
    noise = 0.1 * torch.randn(2, 2 * samples, generator=torch.Generator().manual_seed(0))
    noise[1, samples:] = 0
    alone = extract(noise[1:, :samples], torch.tensor([samples])).layers
    beside = extract(noise, torch.tensor([2 * samples, samples])).layers
    return any(_differ(ours[0], theirs[1], tolerance) for ours, theirs in zip(alone, beside, strict=True))


def _differ(alone: Tensor, beside: Tensor, tolerance: float) -> bool:
    return bool((alone - beside[: len(alone)]).abs().max() > tolerance * alone.abs().max())


def one_by_one(extract: Extract) -> Extract:
    """Return a function that runs `extract` on each recording of a batch alone and pads the frames with 0."""

    def alone(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        outputs = [extract(row[None, : int(n)], n[None]) for row, n in zip(waveform, lengths, strict=True)]
        by_layer = zip(*([frames[0] for frames in output.layers] for output in outputs), strict=True)
        layers = [torch.nn.utils.rnn.pad_sequence(list(frames), batch_first=True) for frames in by_layer]
        return EncoderOutput(layers, torch.cat([output.lengths for output in outputs]))

    return alone
