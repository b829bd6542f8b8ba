"""Sources: padding and batch mates have no say, whatever the encoder's norm."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from audiossl import registry
from audiossl.diagnostics.sources import encoder_source, fbank_source


class PaddingCounts(torch.nn.Module):
    """An encoder whose norm counts padding, as the published group norm does."""

    dim, stride, sample_rate, num_layers = 4, 100, 1000, 1

    def num_frames(self, samples):
        return samples // self.stride

    def forward(self, waveform, lengths):
        from audiossl.contracts import EncoderOutput

        x = waveform / waveform.std(dim=1, keepdim=True)
        frames = x[:, : x.shape[1] // 100 * 100].reshape(len(x), -1, 100)[..., :4]
        return EncoderOutput([frames, 2 * frames], lengths // 100)


def test_an_encoder_that_minds_its_batch_mates_runs_alone():
    source = encoder_source("norm", PaddingCounts(), digest="0")
    assert (source.num_layers, source.dim, source.min_samples) == (2, 4, 100)
    torch.manual_seed(0)
    long, short = torch.randn(900), torch.randn(430)
    batch = torch.zeros(2, 900)
    batch[0], batch[1, :430] = long, short
    together = source.extract(batch, torch.tensor([900, 430]))
    alone = source.extract(short[None], torch.tensor([430]))
    assert together.lengths.tolist() == [9, 4]
    torch.testing.assert_close(together.layers[1][1, :4], alone.layers[1][0])
    assert not torch.allclose(PaddingCounts()(batch, torch.tensor([900, 430])).layers[1][1, :4], alone.layers[1][0])


@pytest.mark.parametrize("name", ["fbank", "wav2vec2"])
def test_shortest_recording_is_exactly_one_frame(name):
    cls = registry.get("encoders", name)
    encoder = cls(cls.Config.tiny())
    source = encoder_source(name, encoder, digest="0")
    assert encoder.num_frames(source.min_samples) == 1
    assert encoder.num_frames(source.min_samples - 1) == 0
    output = source.extract(torch.randn(1, source.min_samples), torch.tensor([source.min_samples]))
    assert len(output.layers) == source.num_layers
    assert output.layers[0].shape == (1, 1, source.dim)
    assert not output.layers[0].requires_grad


def test_sources_that_differ_have_different_digests():
    assert fbank_source().digest != fbank_source(deltas=True).digest
    assert dataclasses.asdict(fbank_source())["dim"] == 80
