"""Sources: padding and batch mates have no say, whatever the encoder's norm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from audiossl import registry
from audiossl.diagnostics.sources import encoder_source, fbank_source, mfcc_source, open_features, superb_fbank_source
from audiossl.nn.features import fbank, mfcc39


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


def published_fbank(waveform):
    """SUPERB's FBANK in NumPy: log-mels of a waveform in [-1, 1], slopes over five frames with the ends repeated, each filter normalised."""
    mels = fbank(waveform[None], torch.tensor([len(waveform)]), full_scale=1.0)[0][0].double().numpy()

    def slopes(rows):
        last = len(rows) - 1
        at = lambda t: rows[min(max(t, 0), last)]  # noqa: E731
        return np.stack([(at(t + 1) - at(t - 1) + 2 * (at(t + 2) - at(t - 2))) / 10 for t in range(len(rows))])

    whole = np.concatenate([mels, slopes(mels), slopes(slopes(mels))], axis=1)
    return (whole - whole.mean(axis=0)) / (1e-10 + whole.std(axis=0, ddof=1))


def test_the_filterbank_of_superb():
    source = open_features("fbank+deltas+cmvn", seed=0, device="cpu", train=None)
    generator = torch.Generator().manual_seed(0)
    lengths = [8000, 5000, source.min_samples]
    waveform = torch.zeros(3, 8000)
    for row, length in enumerate(lengths):
        waveform[row, :length] = 0.1 * torch.randn(length, generator=generator)
    waveform[0, 3000:6000] *= 1e-5  # below the floor of energies, as they are at this scale
    output = source.extract(waveform, torch.tensor(lengths))
    assert (source.name, source.dim, source.num_layers, len(output.layers)) == ("fbank+deltas+cmvn", 240, 1, 1)
    assert output.lengths.tolist() == [48, 29, 2]
    for row, length in enumerate(lengths):
        count = int(output.lengths[row])
        wanted = published_fbank(waveform[row, :length])
        np.testing.assert_allclose(output.layers[0][row, :count].numpy(), wanted, atol=2e-3)
        assert not output.layers[0][row, count:].any()
    quiet = fbank(waveform[:1], torch.tensor([8000]), full_scale=1.0)[0][0, 25]
    assert quiet.unique().tolist() == pytest.approx([np.log(np.finfo(np.float32).eps)])


def test_cepstra():
    source = open_features("mfcc", seed=0, device="cpu", train=None)
    waveform, lengths = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), torch.tensor([4000, 400])
    output = source.extract(waveform, lengths)
    wanted, frames = mfcc39(waveform, lengths)
    assert (source.dim, source.num_layers, source.min_samples, output.lengths.tolist()) == (39, 1, 400, [23, 1])
    assert torch.equal(output.layers[0], wanted)
    assert torch.equal(output.lengths, frames)


def test_sources_that_differ_have_different_digests():
    sources = [fbank_source(), fbank_source(deltas=True), superb_fbank_source(), mfcc_source()]
    assert len({source.digest for source in sources}) == 4
    assert dataclasses.asdict(fbank_source())["dim"] == 80
