from __future__ import annotations

import copy
from dataclasses import replace

import torch

from audiossl.encoders.wavlm import WavLM


def test_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder = WavLM()
    # wav2vec 2.0 base, gates of 64 x 8 + 8 + 12 in 12 layers, and 320 buckets of 12 heads
    assert sum(p.numel() for p in encoder.parameters()) == 94_371_712 + 12 * (64 * 8 + 8 + 12) + 320 * 12


def test_copies_share_nothing():
    encoder = WavLM(WavLM.Config.tiny()).eval()
    other = copy.deepcopy(encoder)
    waveform, lengths = torch.randn(1, 8000), torch.tensor([8000])
    before = encoder(waveform, lengths).layers[-1]
    with torch.no_grad():
        other.transformer.layers[0].attention.bias.weight.add_(1 + torch.randn(16, 4))
    assert torch.equal(encoder(waveform, lengths).layers[-1], before)
    assert not torch.allclose(other(waveform, lengths).layers[-1], before)
    assert other.transformer.layers[1].attention._bias[0] is other.transformer.layers[0].attention.bias


def test_the_bias_matters_in_every_layer():
    encoder = WavLM(WavLM.Config.tiny()).eval()
    encoder(torch.randn(1, 8000), torch.tensor([8000])).layers[-1].std().backward()
    assert all(layer.attention.gate_scale.grad.any() for layer in encoder.transformer.layers)


def test_every_map_of_the_attention_starts_as_berts():
    torch.manual_seed(0)
    for layer in WavLM(replace(WavLM.Config.tiny(), dim=128)).transformer.layers:
        for linear in (layer.attention.qkv, layer.attention.out, layer.attention.gate):
            assert 0.017 < linear.weight.std() < 0.023
            assert not linear.bias.any()
