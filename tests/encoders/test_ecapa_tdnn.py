from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.encoders.ecapa_tdnn import EcapaTDNN


def meta(config):
    with torch.device("meta"):
        return EcapaTDNN(config)


@pytest.mark.parametrize(("config", "published"), [(None, 6.2e6), (EcapaTDNN.Config.large(), 14.7e6)])
def test_published_number_of_parameters(config, published):
    # Table 1 of Desplanques et al. (2020): without the classifier.
    found = sum(parameter.numel() for parameter in meta(config).parameters())
    assert found == pytest.approx(published, rel=0.005)


def test_the_network_of_the_published_figures():
    """Batch norms after aggregation and in the attention, none of the embedding; padding shows nowhere."""
    sizes = {"num_mels": 80, "channels": 1024, "pooled_dim": 3072, "embedding_dim": 512}
    paper, published = (
        sum(p.numel() for p in meta(EcapaTDNN.Config(variant=variant, **sizes)).parameters())
        for variant in ("paper", "sslsv")
    )
    assert published - paper == 2 * (3072 + 128 - 512)
    assert published == pytest.approx(22.7e6, rel=0.005)
    torch.manual_seed(0)
    encoder = EcapaTDNN(replace(EcapaTDNN.Config.tiny(), variant="sslsv")).eval()
    waveform, lengths = torch.randn(3, 8000), torch.tensor([8000, 5000, 1600])
    together = encoder.embed(waveform, lengths)
    for row, length in enumerate(lengths):
        alone = encoder.embed(waveform[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("config", "channels"), [(None, 512), (EcapaTDNN.Config.large(), 1024)])
def test_published_sizes(config, channels):
    encoder = meta(config)
    assert (encoder.dim, encoder.stride, encoder.num_layers, encoder.embedding_dim) == (channels, 160, 3, 192)
    assert encoder.body.enter.conv.weight.shape == (channels, 80, 5)
    for block, dilation in zip(encoder.body.blocks, (2, 3, 4), strict=True):
        convs = [layer.conv for layer in block.res2.convs]
        assert len(convs) == 7
        assert {(conv.weight.shape, conv.dilation, conv.padding) for conv in convs} == {
            ((channels // 8, channels // 8, 3), (dilation,), (dilation,))
        }
    assert encoder.body.pooled_norm.num_features == 2 * 1536
