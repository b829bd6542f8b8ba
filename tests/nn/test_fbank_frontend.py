from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.fbank_frontend import FbankFrontend
from audiossl.nn.features import fbank


@pytest.mark.parametrize("strides", [(2, 1), (2, 2), (1,), (4, 1, 2)])
def test_frame_counts(strides):
    frontend = FbankFrontend(conv_dim=4, strides=strides)
    for samples in (400, 560, 720, 16000, 16123):
        x, _ = frontend(torch.zeros(1, samples), torch.tensor([samples]))
        assert x.shape[1] == frontend.num_frames(samples)
    assert frontend.num_frames(399) == 0
    assert frontend.num_frames(torch.tensor([0, 400])).tolist() == [0, 1]


def test_fifty_hertz_has_the_frames_of_wav2vec2():
    frontend = FbankFrontend(conv_dim=4)
    assert frontend.stride == 320
    assert all(frontend.num_frames(n) == max((n - 400) // 320 + 1, 0) for n in range(0, 20000, 7))
    assert FbankFrontend(conv_dim=4, strides=(2, 2)).stride == 640


def test_frame_is_centred_on_its_samples():
    torch.manual_seed(0)
    frontend = FbankFrontend(conv_dim=4)
    wave, lengths = torch.randn(1, 32000) * 0.1, torch.tensor([32000])
    changed = wave.clone()
    changed[0, 320 * 50 + 150 : 320 * 50 + 250] *= 3  # the middle of the 400 samples of frame 50
    difference = (frontend(wave, lengths)[0] - frontend(changed, lengths)[0]).abs().sum(-1)[0]
    moved = difference.nonzero().squeeze(1)
    assert 50 in moved
    assert moved.min().item() + moved.max().item() == pytest.approx(100, abs=1)


@pytest.mark.parametrize("activation", ["glu", "gelu"])
def test_against_plain_convolutions(activation):
    torch.manual_seed(0)
    frontend = FbankFrontend(num_mels=20, conv_dim=6, activation=activation)
    frontend.calibrate(torch.randn(20), torch.rand(20) + 0.5)
    wave, lengths = torch.randn(2, 8000), torch.tensor([8000, 8000])
    x = ((fbank(wave, lengths, num_mels=20)[0] - frontend.mean) / frontend.std).transpose(1, 2)
    for conv in frontend.convs:
        x = conv(x)
        x = F.glu(x, dim=1) if activation == "glu" else F.gelu(x)
    torch.testing.assert_close(frontend(wave, lengths)[0], x.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_padding_is_zero_and_unheard():
    torch.manual_seed(0)
    frontend = FbankFrontend(conv_dim=6)
    wave, lengths = torch.randn(2, 16000), torch.tensor([16000, 7000])
    x, frames = frontend(wave, lengths)
    assert not x[1, frames[1] :].any()
    alone, _ = frontend(wave[1:, :7000], lengths[1:])
    torch.testing.assert_close(x[1, : frames[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="strides"):
        FbankFrontend(strides=())
    with pytest.raises(ValueError, match="80 values"):
        FbankFrontend(conv_dim=4).calibrate(torch.zeros(80), torch.zeros(80))
