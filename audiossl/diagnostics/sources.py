"""What a probe looks at: an encoder, trained or with random weights, or the filterbank that any encoder must beat."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.contracts import EncoderOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder

_BATCH_TOLERANCE = 1e-3  # of the largest feature


@dataclass(frozen=True)
class FeatureSource:
    """Waveforms to frames, and what must be known to compute the same again.

    extract: waveform (batch, sample), lengths (batch,) -> EncoderOutput, without gradients. num_layers: tensors that it gives, the input
    of the first block among them. digest: sha256 of all that the features depend on except the audio. min_samples: the shortest
    recording that has a frame.
    """

    name: str
    digest: str
    sample_rate: int
    num_layers: int
    dim: int
    min_samples: int
    extract: Callable[[Tensor, Tensor], EncoderOutput]


def fbank_source(*, deltas: bool = False) -> FeatureSource:
    """80 log-mel energies at 100 Hz, with first and second differences on request (240): the baseline of SUPERB.

    Without its mean normalisation per utterance, which would leave nothing of a time-mean but zeros.
    """

    @torch.no_grad()
    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        from audiossl.nn.features import deltas as differences
        from audiossl.nn.features import fbank

        frames, num_frames = fbank(waveform, lengths)
        if deltas:
            first = differences(frames, num_frames)
            frames = torch.cat([frames, first, differences(first, num_frames)], dim=-1)
        return EncoderOutput([frames], num_frames)

    name = "fbank+deltas" if deltas else "fbank"
    digest = hashlib.sha256(f"{name} 80 mels 25/10 ms".encode()).hexdigest()
    # 400 samples are one window of 25 ms.
    return FeatureSource(name, digest, 16_000, 1, 240 if deltas else 80, 400, extract)


def encoder_source(name: str, encoder: SSLEncoder, *, digest: str, device: str = "cpu") -> FeatureSource:
    """Every layer of an encoder, in eval mode and float32. digest: its weights' hash.

    An encoder whose features depend on what shares the batch (a published group norm counts padding) is run on one recording
    at a time.
    """
    model = encoder.float().eval().to(device)

    @torch.no_grad()
    def together(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        output: EncoderOutput = model(waveform.to(device), lengths.to(device))
        return output

    @torch.no_grad()
    def one_by_one(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        alone = [together(row[None, : int(n)], n[None]) for row, n in zip(waveform, lengths, strict=True)]
        layers = [
            torch.nn.utils.rnn.pad_sequence([output.layers[k][0] for output in alone], batch_first=True)
            for k in range(len(alone[0].layers))
        ]
        return EncoderOutput(layers, torch.cat([output.lengths for output in alone]))

    shortest = bisect_left(range(encoder.sample_rate), 1, key=lambda samples: int(encoder.num_frames(samples)))
    extract = together if _ignores_batch_mates(together, encoder.sample_rate, shortest) else one_by_one
    return FeatureSource(name, digest, encoder.sample_rate, encoder.num_layers + 1, encoder.dim, shortest, extract)


def _ignores_batch_mates(extract: Callable[[Tensor, Tensor], EncoderOutput], sample_rate: int, shortest: int) -> bool:
    """Compare half a second of noise alone and beside a whole second of it."""
    noise = 0.1 * torch.randn(2, 2 * max(sample_rate // 2, shortest), generator=torch.Generator().manual_seed(0))
    whole, half = noise.shape[1], noise.shape[1] // 2
    noise[1, half:] = 0
    alone = extract(noise[1:, :half], torch.tensor([half])).layers[-1][0]
    beside = extract(noise, torch.tensor([whole, half])).layers[-1][1, : len(alone)]
    return bool((alone - beside).abs().max() <= _BATCH_TOLERANCE * alone.abs().max())
