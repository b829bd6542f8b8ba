from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from audiossl.encoders.fbank import FBank
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.ssl_encoder import normalised

SAMPLES = torch.tensor([8000, 5000, 6400, 800])
TINY = Wav2Vec2.Config.tiny()
LAYER = replace(TINY, conv_norm="layer", conv_bias=True, pre_norm=True, normalise_waveform=True)
ENCODERS = {
    "group, post-LN": (Wav2Vec2, TINY),
    "layer, pre-LN": (Wav2Vec2, LAYER),
    "fbank": (FBank, FBank.Config.tiny()),
    "fbank, 25 Hz, GELU, pre-LN": (
        FBank,
        replace(FBank.Config.tiny(), strides=(2, 2), activation="gelu", pre_norm=True),
    ),
}
each = pytest.mark.parametrize("name", ENCODERS)


def make(name, **changes):
    torch.manual_seed(0)
    cls, config = ENCODERS[name]
    encoder = cls(replace(config, **changes)).eval()
    return encoder, torch.randn(4, 8000) * 0.1


@each
def test_padding_changes_nothing(name):
    encoder, wave = make(name)
    together = encoder(wave, SAMPLES)
    assert together.lengths.tolist() == [encoder.num_frames(int(n)) for n in SAMPLES]
    for row, samples in enumerate(SAMPLES):
        alone = encoder(wave[row : row + 1, :samples], samples[None])
        count = int(alone.lengths[0])
        for ours, expected in zip(together.layers, alone.layers, strict=True):
            torch.testing.assert_close(ours[row, :count], expected[0], atol=1e-5, rtol=1e-5)


@each
def test_what_lies_in_the_padding_changes_nothing(name):
    encoder, wave = make(name)
    other = wave.clone()
    for row, samples in enumerate(SAMPLES):
        other[row, samples:] = 3.0
    first, second = encoder.local_features(wave, SAMPLES), encoder.local_features(other, SAMPLES)
    torch.testing.assert_close(first.penalty, second.penalty)
    for a, b in zip(encoder(wave, SAMPLES).layers, encoder(other, SAMPLES).layers, strict=True):
        for row, count in enumerate(first.lengths):
            torch.testing.assert_close(a[row, :count], b[row, :count], atol=1e-5, rtol=1e-5)


def test_legacy_norm_depends_on_padding():
    torch.manual_seed(0)
    encoder = Wav2Vec2(replace(TINY, legacy_norm=True)).eval()
    wave = torch.randn(1, 8000)
    padded = F.pad(wave, (0, 8000))
    length = torch.tensor([8000])
    a, b = (encoder.local_features(x, length).z[:, :24] for x in (wave, padded))
    assert (a - b).abs().max() > 1e-2


@each
def test_gradients_reach_every_parameter(name):
    encoder, wave = make(name, layer_drop=0.0)
    encoder.train()
    features = encoder.local_features(wave, SAMPLES)
    masked = torch.zeros(features.z.shape[:2], dtype=torch.bool)
    masked[:, ::2] = True
    output = encoder.contextualise(features.z, features.lengths, masked=masked)
    (output.layers[-1].sin().sum() + features.penalty).backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    missing = [key for key, parameter in encoder.named_parameters() if not parameter.grad.any()]
    assert missing == []


@each
def test_state_dict_round_trip(name):
    encoder, wave = make(name)
    torch.manual_seed(9)
    other = type(encoder)(encoder.config).eval()
    assert not torch.equal(other(wave, SAMPLES).layers[-1], encoder(wave, SAMPLES).layers[-1])
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(wave, SAMPLES).layers[-1], encoder(wave, SAMPLES).layers[-1])


@each
def test_bfloat16_autocast(name):
    encoder, wave = make(name)
    expected = encoder(wave, SAMPLES).layers[-1]
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder.local_features(wave, SAMPLES)
        found = encoder.contextualise(features.z, features.lengths).layers[-1]
        found.float().square().mean().backward()
    assert features.penalty.dtype == torch.float32
    for row, count in enumerate(features.lengths):
        # Normalised outputs of size 1 after dozens of roundings to 8 bits.
        assert (found[row, :count] - expected[row, :count]).abs().mean() < 0.05


@each
def test_frames_cover_their_samples(name):
    encoder, _ = make(name)
    assert encoder.sample_rate == 16000
    for samples in range(400, 9000, 171):
        frames = encoder.num_frames(samples)
        assert frames > 0
        assert (frames - 1) * encoder.stride < samples


def test_masked_frames_are_replaced():
    encoder, wave = make("group, post-LN")
    features = encoder.local_features(wave, SAMPLES)
    masked = torch.zeros(features.z.shape[:2], dtype=torch.bool)
    masked[:, 1:] = True
    other = features.z.clone()
    other[:, 1:] = 7.0
    a, b = (encoder.contextualise(z, features.lengths, masked=masked).layers[-1] for z in (features.z, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, encoder.contextualise(features.z, features.lengths).layers[-1])
    assert ((encoder.mask_emb >= 0) & (encoder.mask_emb < 1)).all()
    with pytest.raises(ValueError, match="masked of shape"):
        encoder.contextualise(features.z, features.lengths, masked=masked[:, 1:])


def test_masked_channels_are_zero_in_all_frames_masked_ones_too():
    encoder, _ = make("group, post-LN")
    z, lengths = torch.randn(2, 9, encoder.feature_dim), torch.tensor([9, 6])
    masked = torch.zeros(2, 9, dtype=torch.bool)
    masked[:, 3:5] = True
    channels = torch.zeros(2, encoder.dim, dtype=torch.bool)
    channels[0, 2:7] = channels[1, 11] = True
    seen = []
    encoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.contextualise(z, lengths, masked=masked)
    encoder.contextualise(z, lengths, masked=masked, channels_masked=channels)
    zero = channels.unsqueeze(1).expand_as(seen[0])
    assert not seen[1][zero].any()
    assert torch.equal(seen[1][~zero], seen[0][~zero])


def test_penalty_is_the_mean_square_over_valid_frames():
    encoder, wave = make("group, post-LN")
    z, frames = encoder.frontend(wave, SAMPLES)
    squares = torch.cat([row[:count].flatten() for row, count in zip(z, frames, strict=True)]).square()
    torch.testing.assert_close(encoder.local_features(wave, SAMPLES).penalty, squares.mean())


def test_gradient_multiplier():
    norms = {}
    for factor in (1.0, 0.1, 0.0):
        encoder, wave = make("group, post-LN", feature_grad_mult=factor)
        features = encoder.local_features(wave, SAMPLES)
        (features.z.sin().sum() + features.penalty).backward()
        gradient = encoder.frontend.convs[3].weight.grad
        norms[factor] = None if gradient is None else gradient.norm().item()
    assert norms[0.1] == pytest.approx(0.1 * norms[1.0], rel=1e-4)
    assert norms[0.0] is None
    assert not any(p.requires_grad for p in encoder.frontend.parameters())


def test_normalised_waveform():
    wave = torch.randn(2, 1000) * 3 + 1
    found = normalised(wave, torch.tensor([1000, 600]))
    torch.testing.assert_close(found[0], F.layer_norm(wave[0], (1000,)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :600], F.layer_norm(wave[1, :600], (600,)), atol=1e-5, rtol=1e-5)
    assert not found[1, 600:].any()


def test_stopping_early_runs_fewer_blocks():
    encoder, wave = make("fbank")
    assert len(encoder(wave, SAMPLES, num_layers=1).layers) == 2
