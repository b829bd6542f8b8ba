from __future__ import annotations

import pytest
import torch

from audiossl.encoders.fast_resnet34 import FastResNet34


def meta(config):
    with torch.device("meta"):
        return FastResNet34(config)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_published_number_of_parameters():
    # 1.44 million (Lepage and Dehak, 2024): encoder with pooling and embedding, without projector.
    assert count(meta(None)) == pytest.approx(1.44e6, rel=0.02)


def test_published_sizes():
    encoder = meta(None)
    assert (encoder.stride, encoder.dim, encoder.embedding_dim, encoder.num_layers) == (640, 128, 512, 0)
    assert len(encoder.body.blocks) == 16
    assert encoder.body.stem.weight.shape == (16, 1, 7, 7)
    assert [block.stride for block in encoder.body.blocks] == [1] * 3 + [2] + [1] * 3 + [2] + [1] * 8
    assert encoder.num_frames(32000) == 50


def test_statistics_see_all_frequencies():
    encoder = meta(FastResNet34.Config.statistics())
    assert (encoder.dim, encoder.body.pooling.out_dim) == (128 * 10, 2 * 128 * 10)


def test_two_seconds():
    torch.manual_seed(0)
    encoder = FastResNet34()
    waveform = 0.1 * torch.randn(2, 32000)
    embedding = encoder.embed(waveform, torch.tensor([32000, 32000]))
    assert embedding.shape == (2, 512)
    assert embedding.isfinite().all()
