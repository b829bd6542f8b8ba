"""How near converted voices come to the recordings of their target; free of torch, so that processes which score start quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.data.audio import read_audio
from audiossl.data.processes import in_processes
from audiossl.metrics.mel_cepstral_distortion import mel_cepstral_distortion
from audiossl.tasks._mel import SAMPLE_RATE, waveform_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


def converted(mels: Sequence[np.ndarray], targets: Sequence[str], workers: int) -> tuple[list[np.ndarray], list[float]]:
    """Waveforms of some spectra, (frame, bin) each, and their distortions from the files `targets`. workers: processes; 0 for none."""
    made = in_processes(_one, list(zip(mels, targets, strict=True)), workers)
    return [waveform for waveform, _ in made], [distortion for _, distortion in made]


def _one(item: tuple[np.ndarray, str]) -> tuple[np.ndarray, float]:
    mel, target = item
    waveform = waveform_of(mel)
    return waveform, mel_cepstral_distortion(waveform, read_audio(target, sample_rate=SAMPLE_RATE), SAMPLE_RATE)
