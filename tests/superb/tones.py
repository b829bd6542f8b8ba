"""An upstream that is a few sums over the waveform, and data directories of tones that it hears."""

from __future__ import annotations

import math

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureSource

RATE, HOP, TONES = 16_000, 400, (400, 1200, 2400)


def source(*, deaf=()):
    """Three layers of four numbers per frame: energy at each of three tones and the frame's own. Layers of `deaf` hear nothing but noise of their own."""
    time = torch.arange(HOP) / RATE
    waves = torch.stack([torch.exp(2j * math.pi * tone * time) for tone in TONES])
    calls = []

    def extract(waveform, lengths):
        calls.append(len(waveform))
        frames = waveform[:, : waveform.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        energy = 10 * (frames.to(waves.dtype) @ waves.T).abs() / HOP
        layer = torch.cat([energy, frames.square().mean(-1, keepdim=True)], dim=-1)
        noise = (layer * 1e5).frac()
        return EncoderOutput([noise if k in deaf else (k + 1) * layer for k in range(3)], lengths // HOP)

    return FeatureSource("tones", f"{len(deaf)}" * 64, RATE, 3, 4, HOP, HOP, extract), calls


def write_tones(folder, rows, seed=0, *, quiet=0.02, per_recording=1):
    """rows: (tones that sound, columns). per_recording: utterances that are segments of one recording."""
    rng = np.random.default_rng(seed)
    audio = folder.parent / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    utterances, seconds = [], 0.3
    for first in range(0, len(rows), per_recording):
        waves = []
        path = audio / f"{folder.name}{first}.wav"
        for place, (tones, columns) in enumerate(rows[first : first + per_recording]):
            count = round(seconds * RATE)
            wave = quiet * rng.standard_normal(count)
            for tone in tones:
                wave += 0.2 * np.sin(2 * np.pi * TONES[tone] * np.arange(count) / RATE + rng.uniform(0, 6))
            waves.append(wave)
            span = (None, None) if per_recording == 1 else (place * seconds, (place + 1) * seconds)
            name = f"s-{folder.name}{first + place:03d}"
            recording = name if per_recording == 1 else f"r{first:03d}"
            utterances.append(CorpusUtterance(name, recording, path, "s", *span, columns=dict(columns)))
        write_audio(path, np.concatenate(waves), RATE)
    write_data_dir(utterances, folder)
