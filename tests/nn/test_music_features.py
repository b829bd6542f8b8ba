from __future__ import annotations

import numpy as np
import torch

from audiossl.data.alignments import labels_fit
from audiossl.nn.music_features import HOP, SAMPLE_RATE, Chroma, MusicLogMels
from audiossl.units.features import make_features


def tone(hertz, samples=24000, amplitude=0.3):
    return (amplitude * torch.sin(2 * np.pi * hertz * torch.arange(samples) / SAMPLE_RATE))[None]


def test_log_mels_are_librosas():
    import librosa

    waveform = 0.1 * torch.randn(1, 12000, generator=torch.Generator().manual_seed(0))
    theirs = librosa.feature.melspectrogram(
        y=waveform[0].numpy(), sr=SAMPLE_RATE, n_fft=2048, hop_length=HOP, n_mels=229, pad_mode="constant"
    )
    ours, frames = MusicLogMels()(waveform, torch.tensor([12000]))
    assert frames.tolist() == [theirs.shape[1]]
    np.testing.assert_allclose(ours[0].numpy().T, np.log(theirs + 1e-6), rtol=1e-3, atol=1e-3)


def test_octaves_share_a_pitch_class():
    chroma = Chroma()
    classes = [
        int(chroma(tone(hertz), torch.tensor([24000]))[0][0, 37].argmax()) for hertz in (130.8, 261.6, 523.2, 277.2)
    ]
    assert classes == [0, 0, 0, 4]  # C, C, C, and C sharp a semitone of four classes above


def test_silence_has_no_pitch():
    frames = Chroma()(tone(261.6, amplitude=1e-7), torch.tensor([24000]))[0]
    assert frames.max() < 0.01


def test_features_for_units():
    lengths = torch.tensor([24000, 15000])
    batch = torch.cat([tone(262.0), tone(400.0)])
    batch[1, 15000:] = 0
    for kind, dim in (("logmel", 229), ("chroma", 48)):
        features = make_features(kind, "", 0)
        together, frames = features(batch, lengths)
        assert together.shape == (2, 76, dim)
        alone, _ = features(batch[1:, :15000], lengths[1:])
        torch.testing.assert_close(together[1, : frames[1]], alone[0], atol=1e-5, rtol=1e-5)
        assert labels_fit(frames.numpy(), lengths.numpy() / SAMPLE_RATE, features.rate).all()
