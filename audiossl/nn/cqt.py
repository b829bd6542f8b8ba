"""Constant-Q transform (Brown, 1991): the magnitudes of a bank of tones, as many per octave, each heard through equally many periods."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOWEST_C = 32.7
"""Hz, the lowest frequency that MERT takes."""


class CQT(nn.Module):
    """Magnitudes at geometrically spaced frequencies, defined as librosa's `cqt`; MERT's target is nnAudio's, whose Q is 68.75 at 48 bins per octave, ours 69.25.

    Bin k hears f_k = fmin 2^(k / bins_per_octave) Hz through a Hann window of N_k = Q sample_rate / f_k samples: C_k(t) = sqrt(N_k) |sum over n of
    x(t + n) w_k(n) exp(-2 pi i f_k n / sample_rate)| with the w_k summing to 1, so that a tone of amplitude A gives sqrt(N_k) A / 2. Frame t is centred at sample t hop,
    silence is assumed around the recording.

    The kernels are buffers that are made again and not saved. They are cut into blocks of one hop, so that an octave of them is a convolution of stride 1 over
    blocks: no window is ever copied out of the waveform, and high octaves, whose windows are short, cost little.
    """

    def __init__(
        self, *, sample_rate: int, hop: int, num_bins: int = 336, bins_per_octave: int = 48, fmin: float = LOWEST_C
    ) -> None:
        super().__init__()
        if num_bins < 1 or bins_per_octave < 1 or fmin <= 0:
            raise ValueError(
                f"cqt: {num_bins} bins, {bins_per_octave} per octave, from {fmin} Hz; give numbers above 0"
            )
        self.num_bins, self.hop = num_bins, hop
        self.frequencies = fmin * 2.0 ** (torch.arange(num_bins, dtype=torch.float64) / bins_per_octave)  # (bin,) Hz
        if self.frequencies[-1] >= sample_rate / 2:
            raise ValueError(
                f"cqt: bin {num_bins} is at {self.frequencies[-1]:.0f} Hz, above half the sample rate {sample_rate}; take fewer bins"
            )
        step = 2.0 ** (2 / bins_per_octave)
        quality = (step + 1) / (step - 1)  # Q: nearly 1 / (2^(1 / bins_per_octave) - 1)
        self.octaves = [range(low, min(low + bins_per_octave, num_bins)) for low in range(0, num_bins, bins_per_octave)]
        for number, bins in enumerate(self.octaves):
            kernels = _kernels(self.frequencies[bins.start : bins.stop] / sample_rate, quality, hop)
            self.register_buffer(f"octave{number}", kernels, persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        """waveform: (batch, sample), zero at padding. Returns (batch, num_frames, bin) float32; frames beyond the recording hear what its end leaves."""
        with torch.autocast(waveform.device.type, enabled=False):
            longest = max(self._reach(number) for number in range(len(self.octaves)))  # blocks to each side
            blocks = num_frames + 2 * longest
            room = blocks * self.hop - longest * self.hop
            padded = F.pad(waveform.float()[:, :room], (longest * self.hop, max(0, room - waveform.shape[1])))
            signal = padded.view(len(padded), blocks, self.hop).transpose(1, 2)  # (batch, hop, block)
            octaves = []
            for number in range(len(self.octaves)):
                margin = longest - self._reach(number)
                tones = F.conv1d(signal[..., margin : blocks - margin], self._octave(number))
                real, imaginary = tones[..., :num_frames].chunk(2, dim=1)  # (batch, bin of the octave, frame)
                octaves.append((real.square() + imaginary.square()).sqrt())
            return torch.cat(octaves, dim=1).transpose(1, 2)

    def _octave(self, number: int) -> Tensor:
        kernels: Tensor = getattr(self, f"octave{number}")
        return kernels

    def _reach(self, number: int) -> int:
        """Blocks that the kernels of an octave reach to each side of a frame's centre."""
        return self._octave(number).shape[2] // 2


def _kernels(cycles: Tensor, quality: float, hop: int) -> Tensor:
    """Kernels of some bins: (2 bin, hop, block), real parts first. cycles: (bin,), frequency in cycles per sample."""
    lengths = quality / cycles  # (bin,) samples, not whole numbers
    reach = math.ceil(float(lengths.max()) / 2 / hop)
    n = torch.arange(-reach * hop, reach * hop, dtype=torch.float64)  # samples from the centre
    phase = n / lengths[:, None]
    windows = torch.where(phase.abs() < 0.5, 0.5 + 0.5 * torch.cos(2 * math.pi * phase), 0.0)
    windows = windows / windows.sum(dim=1, keepdim=True) * lengths.sqrt()[:, None]
    turns = 2 * math.pi * cycles[:, None] * n
    kernels = torch.cat([windows * torch.cos(turns), -windows * torch.sin(turns)])  # (2 bin, sample)
    return kernels.view(len(kernels), 2 * reach, hop).transpose(1, 2).float().contiguous()
