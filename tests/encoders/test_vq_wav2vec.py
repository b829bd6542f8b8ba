from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.encoders.vq_wav2vec import VQWav2Vec

TINY = VQWav2Vec.Config.tiny()


def make(quantiser):
    torch.manual_seed(0)
    return VQWav2Vec(replace(TINY, quantiser=quantiser)).eval()


def test_published_size():
    """34 million parameters (Baevski et al., 2020, section 5): 8 + 12 convolutions, norms, logits and codebook."""
    with torch.device("meta"):
        encoder = VQWav2Vec()
    convs = 512 * (10 + 512 * (8 + 4 + 4 + 4 + 1 + 1 + 1)) + 12 * 512 + 512 * 512 * sum(range(2, 14)) + 20 * 1024
    quantiser = 512 * 1024 + 1024 + 1024 * 640 + 640 + 320 * 256
    assert sum(p.numel() for p in encoder.parameters()) == convs + quantiser
    assert encoder.sample_rate / encoder.stride == 100


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_padding_changes_nothing(quantiser):
    encoder = make(quantiser)
    waveform, lengths = 0.1 * torch.randn(2, 6003), torch.tensor([6003, 2500])
    together, (codes, frames) = encoder(waveform, lengths), encoder.codes(waveform, lengths)
    alone, (single, count) = encoder(waveform[1:, :2500], lengths[1:]), encoder.codes(waveform[1:, :2500], lengths[1:])
    assert frames[1] == count[0] == encoder.num_frames(2500)
    assert torch.equal(codes[1, : single.shape[1]], single[0])
    for both, one in zip(together.layers, alone.layers, strict=True):
        torch.testing.assert_close(both[1, : one.shape[1]], one[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_context_is_that_of_the_entries_which_the_codes_name(quantiser):
    encoder = make(quantiser)
    waveform, lengths = 0.1 * torch.randn(2, 6003), torch.tensor([6003, 6003])
    output, (codes, _) = encoder(waveform, lengths), encoder.codes(waveform, lengths)
    entries = encoder.quantiser.look_up(codes.flatten(0, 1)).view(*codes.shape[:2], -1)
    torch.testing.assert_close(output.layers[1], encoder.aggregate(entries, output.lengths))
    assert not torch.equal(output.layers[0], entries)


def test_nearest_entries_teach_the_convolutions():
    encoder = make("kmeans").train()
    waveform, lengths = 0.1 * torch.randn(2, 6003), torch.tensor([6003, 2500])
    z, frames = encoder.features(waveform, lengths)
    found = encoder.quantise(z, frames)
    (encoder.aggregate(found.q, frames)[:, :5].square().sum() + found.loss.sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_codes_start_where_the_config_says(quantiser):
    waveforms = [(0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000])) for _ in range(3)]
    random = make(quantiser)
    before = {name: tensor.clone() for name, tensor in random.state_dict().items()}
    random.calibrate(iter(waveforms))
    assert all(torch.equal(tensor, before[name]) for name, tensor in random.state_dict().items())
    torch.manual_seed(0)
    encoder = VQWav2Vec(replace(TINY, quantiser=quantiser, start="data")).eval()
    encoder.calibrate(iter(waveforms))
    codes, frames = encoder.codes(*waveforms[0])
    found = torch.cat([row[:count] for row, count in zip(codes, frames, strict=True)])
    assert all(len(group.unique()) > 1 for group in found.unbind(1))


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match=r"^encoder\.dim: 16 is no multiple of the 3 groups$"):
        VQWav2Vec.Config(dim=16, groups=3)
