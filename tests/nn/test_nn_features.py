from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.nn.features import deltas, fbank, mfcc, mfcc39, num_windows

knf = pytest.importorskip("kaldi_native_fbank")


def speech_like(samples, seed=0):
    """Harmonics with a moving pitch, noise and an offset: energy in all filters, as Kaldi's logarithms of nothing are no test."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(np.arange(samples) / 4000)) / 16000
    wave = sum(np.sin(k * phase) / k for k in range(1, 30)) * 0.1 + 0.02 * rng.standard_normal(samples) + 0.01
    return wave.astype(np.float32)


def options(kind, mels):
    found = kind()
    found.frame_opts.dither = 0
    found.mel_opts.num_bins = mels
    return found


def kaldi(wave, computer, width, scale=32768):
    computer.accept_waveform(16000, (wave * scale).tolist())
    computer.input_finished()
    return np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)]).reshape(-1, width)


@pytest.mark.parametrize("mels", [80, 40, 23])
def test_fbank_is_kaldis(mels):
    wave = speech_like(16123)
    chosen = options(knf.FbankOptions, mels)
    chosen.energy_floor = 0
    expected = kaldi(wave, knf.OnlineFbank(chosen), mels)
    found, lengths = fbank(torch.from_numpy(wave)[None], torch.tensor([16123]), num_mels=mels)
    assert lengths.tolist() == [len(expected)]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3, rtol=0)


def test_fbank_of_small_numbers_has_kaldis_floor():
    wave = speech_like(16123)
    wave[6000:12000] *= 1e-5  # quiet frames lie below the floor at this scale alone
    expected = kaldi(wave, knf.OnlineFbank(options(knf.FbankOptions, 80)), 80, scale=1)
    found, _ = fbank(torch.from_numpy(wave)[None], torch.tensor([16123]), full_scale=1.0)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3, rtol=0)
    assert (expected == expected.min()).mean() > 0.2
    loud, _ = fbank(torch.from_numpy(wave)[None], torch.tensor([16123]))
    assert (loud == loud.min()).float().mean() < 0.01


def test_mfcc_is_kaldis():
    wave = speech_like(16123)
    chosen = options(knf.MfccOptions, 23)
    chosen.num_ceps, chosen.use_energy = 13, False
    expected = kaldi(wave, knf.OnlineMfcc(chosen), 13)
    found, _ = mfcc(torch.from_numpy(wave)[None], torch.tensor([16123]))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["speech", "hiss", "silence"])
def test_mfcc_of_small_numbers_has_kaldis_floor(kind):
    """As HuBERT's code makes its first units: waveforms in [-1, 1] as they are."""
    wave = speech_like(16123)
    if kind == "hiss":
        wave = (2e-5 * np.random.default_rng(1).standard_normal(16123)).astype(np.float32)
    wave[6000:12000] = 0
    if kind == "silence":
        wave[:] = 0
    chosen = options(knf.MfccOptions, 23)
    chosen.num_ceps, chosen.use_energy = 13, False
    expected = kaldi(wave, knf.OnlineMfcc(chosen), 13, scale=1)
    found, _ = mfcc(torch.from_numpy(wave)[None], torch.tensor([16123]), full_scale=1.0)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3, rtol=0)
    scaled, frames = mfcc39(torch.from_numpy(wave)[None], torch.tensor([16123]), full_scale=1.0)
    torch.testing.assert_close(scaled[..., :13], found)
    torch.testing.assert_close(scaled[..., 13:26], deltas(found, frames))


def test_batch_equals_each_alone_and_padding_is_zero():
    lengths = torch.tensor([16000, 9001, 399, 400])
    batch = torch.randn(4, 16000, generator=torch.Generator().manual_seed(0))
    together, frames = mfcc39(batch, lengths)
    assert together.shape == (4, 98, 39)
    assert frames.tolist() == [98, 54, 0, 1]
    for row, wave, samples, count in zip(together, batch, lengths, frames, strict=True):
        assert not row[count:].any()
        if count:
            alone, _ = mfcc39(wave[None, :samples], samples[None])
            torch.testing.assert_close(row[:count], alone[0], atol=1e-4, rtol=1e-5)


def test_deltas_against_the_sum():
    x = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = [9, 4]
    found = deltas(x, torch.tensor(lengths))
    for b, count in enumerate(lengths):
        for t in range(count):
            at = [x[b, min(max(t + n, 0), count - 1)] for n in range(-2, 3)]
            expected = sum(n * value for n, value in zip(range(-2, 3), at, strict=True)) / 10
            torch.testing.assert_close(found[b, t], expected)
    assert not found[1, 4:].any()


def test_float32_under_autocast():
    wave, lengths = torch.from_numpy(speech_like(8000))[None], torch.tensor([8000])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = mfcc39(wave, lengths)
    torch.testing.assert_close(found, mfcc39(wave, lengths)[0], atol=0, rtol=0)


def test_constants_made_in_inference_mode_can_be_trained_through():
    with torch.inference_mode():
        fbank(torch.randn(1, 800), torch.tensor([800]), num_mels=17)
    wave = torch.randn(1, 800, requires_grad=True)
    fbank(wave, torch.tensor([800]), num_mels=17)[0].sum().backward()
    assert wave.grad is not None


def test_num_windows():
    assert [num_windows(n) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
    assert num_windows(torch.tensor([0, 560])).tolist() == [0, 2]
    assert num_windows(24000, sample_rate=24000) == 98


def test_errors():
    with pytest.raises(ValueError, match="waveform of 399 samples"):
        fbank(torch.zeros(1, 399), torch.tensor([399]))
    with pytest.raises(ValueError, match="num_cepstra 24"):
        mfcc(torch.zeros(1, 400), torch.tensor([400]), num_cepstra=24)
    with pytest.raises(ValueError, match="window 4"):
        deltas(torch.zeros(1, 4, 2), torch.tensor([4]), window=4)
    with pytest.raises(ValueError, match="sample_rate 16"):
        fbank(torch.zeros(1, 400), torch.tensor([400]), sample_rate=16)
