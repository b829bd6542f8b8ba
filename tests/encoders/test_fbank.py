from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.encoders.fbank import FBank
from audiossl.nn.features import mfcc39


def test_nano():
    config = FBank.Config.nano()
    assert (config.dim, config.num_layers, config.ffn_dim, config.num_heads) == (256, 4, 1024, 4)
    assert FBank(config).stride == 320


def test_fast_hubert_is_25_hertz():
    with torch.device("meta"):
        encoder = FBank(FBank.Config.fast_hubert())
    assert encoder.stride == 640
    assert encoder.num_frames(160000) == 250


def test_calibrate_gives_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    encoder = FBank(FBank.Config.tiny())
    waves = torch.randn(4, 8000) * torch.tensor([[0.1], [0.01], [0.2], [0.05]])
    lengths = torch.tensor([8000, 4000, 6000, 399])
    encoder.calibrate((waves[i : i + 2], lengths[i : i + 2]) for i in (0, 2))
    rows = []
    for wave, length in zip(waves[:3], lengths, strict=False):
        features, _ = encoder.frontend.features(wave[None, :length], length[None])
        rows.append((features[0] - encoder.frontend.mean) / encoder.frontend.std)
    normal = torch.cat(rows)
    torch.testing.assert_close(normal.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)


def test_cepstra_are_calibrated_and_heard():
    torch.manual_seed(0)
    encoder = FBank(replace(FBank.Config.tiny(), inputs="mfcc"))
    wave, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5000])
    encoder.calibrate([(wave, lengths)])
    cepstra, frames = mfcc39(wave, lengths)
    heard = torch.cat([cepstra[0, : frames[0]], cepstra[1, : frames[1]]])
    assert encoder.frontend.mean.shape == (39,)
    torch.testing.assert_close(encoder.frontend.mean, heard.mean(0), atol=1e-4, rtol=1e-4)
    assert encoder(wave, lengths).layers[-1].shape == (2, encoder.num_frames(8000), 32)
    with pytest.raises(ValueError, match="encoder.num_mels: 40 filters are for inputs = 'log_mel'"):
        FBank.Config(inputs="mfcc", num_mels=40)


def test_calibration_is_saved_and_not_trained():
    encoder = FBank(FBank.Config.tiny())
    encoder.calibrate([(torch.randn(1, 8000), torch.tensor([8000]))])
    other = FBank(FBank.Config.tiny())
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.frontend.mean, encoder.frontend.mean)
    assert not encoder.frontend.mean.requires_grad


def test_calibration_needs_speech():
    with pytest.raises(ValueError, match="0 frames"):
        FBank(FBank.Config.tiny()).calibrate([])
