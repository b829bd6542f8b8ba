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


@pytest.mark.parametrize("mean_norm", [False, True])
@pytest.mark.parametrize("strides", [(2, 1), (2, 2)])
def test_visible_frames_do_not_hear_the_inputs_of_hidden_ones(strides, mean_norm, monkeypatch):
    torch.manual_seed(0)
    frontend = FbankFrontend(conv_dim=4, strides=strides, mean_norm=mean_norm)
    wave, lengths = torch.randn(2, 16000), torch.tensor([16000, 9100])
    frames = frontend.num_frames(16000)
    hidden = (torch.rand(2, frames) < 0.5) & (torch.arange(frames) < frontend.num_frames(lengths).unsqueeze(1))
    inputs, counts = frontend.features(wave, lengths)
    patch = strides[0] * strides[1]
    changed = inputs.clone()
    for b, t in hidden.nonzero().tolist():
        changed[b, patch * t : min(patch * (t + 1), int(counts[b]))] += 3
    found = []
    for values in (inputs, changed):
        monkeypatch.setattr(frontend, "features", lambda *_, values=values: (values, counts))
        found.append((frontend(wave, lengths)[0], frontend(wave, lengths, hidden=hidden)[0]))
    (plain, without), (plain_changed, without_changed) = found
    assert (plain != plain_changed)[~hidden].any()
    assert torch.equal(without, without_changed)
    assert not torch.equal(without, plain)


def test_noise_stands_in_hidden_inputs_alone(monkeypatch):
    frontend = FbankFrontend(num_mels=20, conv_dim=4, strides=(1,))
    with torch.no_grad():  # the convolution hands its inputs on
        conv = frontend.convs[0]
        conv.weight.zero_()
        conv.weight[range(4), range(4), 2] = 1
        conv.bias.copy_(torch.tensor([0.0] * 4 + [50.0] * 4))
    wave, lengths = torch.randn(2, 32000), torch.tensor([32000, 16000])
    hidden = torch.rand(2, frontend.num_frames(32000)) < 0.5
    x, frames = frontend(wave, lengths, hidden=hidden, noise_std=0.5)
    valid = torch.arange(x.shape[1]) < frames.unsqueeze(1)
    assert torch.equal(x[~hidden], frontend(wave, lengths)[0][~hidden])
    assert x[hidden & valid].std().item() == pytest.approx(0.5, rel=0.1)
    assert not x[~valid].any()


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
