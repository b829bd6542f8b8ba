"""What units of music are clusters of: many log-mels, and the strength of each pitch class, both at 24 kHz and 75 Hz."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiossl.nn.cqt import CQT

SAMPLE_RATE = 24_000
HOP = 320
_WINDOW = 2048
_PER_OCTAVE = 48


class MusicLogMels(nn.Module):
    """229 log-mels, the number that MERT's k-means teacher has; window (85 ms) and floor are our choice. Frame t is centred at sample 320 t."""

    filters: Tensor
    window: Tensor

    def __init__(self, num_mels: int = 229) -> None:
        from librosa.filters import mel

        super().__init__()
        self.dim = num_mels
        filters = mel(sr=SAMPLE_RATE, n_fft=_WINDOW, n_mels=num_mels)
        self.register_buffer("filters", torch.from_numpy(filters.T), persistent=False)  # (frequency, mel)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample), zero at padding. Returns (batch, frame, num_mels) and (batch,) valid frames."""
        spectrum = torch.stft(
            waveform, _WINDOW, HOP, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = spectrum.abs().square().transpose(1, 2)  # (batch, frame, frequency)
        return (power @ self.filters + 1e-6).log(), lengths // HOP + 1


class Chroma(nn.Module):
    """Strength of 48 pitch classes, quarters of a semitone: constant-Q magnitudes of seven octaves added up, the loudest class of a frame at 1.

    Our variant: MERT's k-means teacher has a chroma of 264 numbers, perhaps librosa's `chroma_stft` of 512 samples, as a public script has it. Frame t is centred at sample 320 t.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dim = _PER_OCTAVE
        self.cqt = CQT(sample_rate=SAMPLE_RATE, hop=HOP, num_bins=7 * _PER_OCTAVE, bins_per_octave=_PER_OCTAVE)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample), zero at padding. Returns (batch, frame, 48) and (batch,) valid frames."""
        magnitudes = self.cqt(waveform, waveform.shape[1] // HOP + 1)
        classes = magnitudes.unflatten(-1, (7, _PER_OCTAVE)).sum(dim=-2)
        # A silent frame has no pitch: it stays near 0 instead of becoming noise that is divided by itself.
        return classes / classes.amax(dim=-1, keepdim=True).clamp(min=1e-3), lengths // HOP + 1
