"""The front end of speaker encoders against sums over samples, bins and frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.nn.features import fbank
from audiossl.nn.speaker_frontend import (
    FrontendConfig,
    SpeakerFrontend,
    instance_normalised,
    power_mel,
    preemphasised,
)


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def mel_of(hertz):
    return 2595 * math.log10(1 + hertz / 700)


def hertz_of(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def oracle(wave, num_mels, offset, scale):
    """Log power-mel by the discrete Fourier sum: (frame, mel)."""
    corners = [hertz_of(mel_of(8000) * k / (num_mels + 1)) for k in range(num_mels + 2)]
    filters = np.zeros((257, num_mels))
    for b in range(257):
        f = b * 16000 / 512
        for m, (left, centre, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
            if left < f <= centre:
                filters[b, m] = (f - left) / (centre - left)
            elif centre < f < right:
                filters[b, m] = (right - f) / (right - centre)
    window = np.array([offset - scale * math.cos(2 * math.pi * n / 400) for n in range(400)])
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    starts = range(0, len(wave) - 399, 160)
    power = np.stack([np.abs(fourier @ (window * wave[start : start + 400])) ** 2 for start in starts])
    return np.log(power @ filters + 1e-6)


@pytest.mark.parametrize("num_mels", [40, 80])
@pytest.mark.parametrize(("window", "offset", "scale"), [("hamming", 0.54, 0.46), ("hann", 0.5, 0.5)])
def test_power_mel(num_mels, window, offset, scale):
    wave = noise(2033)
    found, frames = power_mel(torch.tensor(wave)[None], torch.tensor([2033]), num_mels=num_mels, window=window)
    assert frames.tolist() == [11]
    np.testing.assert_allclose(found[0].numpy(), oracle(wave, num_mels, offset, scale), atol=2e-5, rtol=1e-5)


def test_silence_is_the_floor():
    found, _ = power_mel(torch.zeros(1, 800), torch.tensor([800]))
    torch.testing.assert_close(found, torch.full((1, 3, 40), math.log(1e-6)))


def test_preemphasis():
    wave = [0.5, -0.25, 1.0]
    found = preemphasised(torch.tensor([wave]), 0.97)
    expected = [0.5 + 0.97 * 0.25, -0.25 - 0.97 * 0.5, 1.0 + 0.97 * 0.25]
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("variance", [True, False])
def test_instance_norm_is_over_valid_frames(variance):
    rng = np.random.default_rng(0)
    features, lengths = rng.standard_normal((3, 9, 4)) * 5 + 3, [9, 4, 1]
    features[1, 4:] = np.nan
    found = instance_normalised(torch.tensor(features), torch.tensor(lengths), variance=variance).numpy()
    for row, count in enumerate(lengths):
        for d in range(4):
            x = features[row, :count, d]
            mean = sum(x) / count
            deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / count + 1e-5) if variance else 1
            np.testing.assert_allclose(found[row, :count, d], (x - mean) / deviation, atol=1e-12)
        assert not found[row, count:].any()


def test_frontend_composes_them():
    wave = torch.tensor(noise(4000), dtype=torch.float32)[None]
    lengths = torch.tensor([4000])
    config = FrontendConfig(features="mel_hann", num_mels=20, preemphasis=0.9)
    found, _ = SpeakerFrontend(config)(wave, lengths)
    mels, frames = power_mel(preemphasised(wave, 0.9), lengths, num_mels=20, window="hann")
    assert torch.equal(found, instance_normalised(mels, frames, variance=True))
    found, _ = SpeakerFrontend(FrontendConfig(features="fbank", num_mels=80))(wave, lengths)
    expected = fbank(wave, lengths)[0]
    torch.testing.assert_close(found, expected - expected.mean(1, keepdim=True))
    assert found.std(1).max() > 0.2  # the variance is left alone


@pytest.mark.parametrize("features", ["mel_hamming", "mel_hann", "fbank"])
def test_padding_changes_nothing(features):
    frontend = SpeakerFrontend(FrontendConfig(features=features, preemphasis=0.0 if features == "fbank" else 0.97))
    lengths = torch.tensor([8000, 5001, 399])
    waves = torch.tensor(
        noise(3 * 8000).reshape(3, 8000), dtype=torch.float32
    )  # padding is noise: it must not be heard
    together, frames = frontend(waves, lengths)
    assert frames.tolist() == [48, 29, 0] == [frontend.num_frames(int(n)) for n in lengths]
    assert not together[2].any()
    for row in (0, 1):
        alone, _ = frontend(waves[row : row + 1, : lengths[row]], lengths[row : row + 1])
        torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=1e-5, rtol=1e-5)
        assert not together[row, frames[row] :].any()


def test_float32_under_autocast():
    frontend, wave = SpeakerFrontend(FrontendConfig()), torch.tensor(noise(4000), dtype=torch.float32)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = frontend(wave, torch.tensor([4000]))
    assert torch.equal(found, frontend(wave, torch.tensor([4000]))[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FrontendConfig(num_mels=0), "num_mels 0"),
        (FrontendConfig(preemphasis=1.0), "preemphasis 1.0"),
        (FrontendConfig(features="fbank", preemphasis=0.97), "preemphasis 0.97.*'fbank'"),
    ],
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        SpeakerFrontend(config)


def test_no_window():
    with pytest.raises(ValueError, match="399 samples"):
        power_mel(torch.zeros(1, 399), torch.tensor([399]))


@pytest.mark.parametrize("features", ["mel_hamming", "fbank"])
def test_unnormalised_features_keep_the_mean_spectrum_and_nothing_at_padding(features):
    waveform = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8000, 5000])
    plain, frames = SpeakerFrontend(FrontendConfig(features, normalise="none"))(waveform, lengths)
    louder, _ = SpeakerFrontend(FrontendConfig(features, normalise="none"))(2 * waveform, lengths)
    normalised, _ = SpeakerFrontend(FrontendConfig(features))(waveform, lengths)
    assert float((louder - plain)[0].mean()) == pytest.approx(2 * np.log(2), rel=0.01)
    assert float(plain[1, frames[1] :].abs().max()) == 0.0
    centred = plain[0] - plain[0].mean(0)
    scale = 1.0 if features == "fbank" else centred.std(0, correction=0)
    torch.testing.assert_close(centred / scale, normalised[0], atol=1e-3, rtol=1e-3)
