from __future__ import annotations

import pytest
import torch

from audiossl.encoders.thin_resnet34 import ThinResNet34


def meta(config):
    with torch.device("meta"):
        return ThinResNet34(config)


@pytest.mark.parametrize(("config", "base", "embedding"), [("", 16, 512), ("large", 32, 1024)])
def test_published_sizes(config, base, embedding):
    encoder = meta(getattr(ThinResNet34.Config, config)() if config else None)
    assert encoder.body.stem.weight.shape == (base, 1, 3, 3)
    assert encoder.dim == 8 * base * 5  # channels of the last stage times 40 / 8 bins
    assert encoder.body.embedding.weight.shape == (embedding, encoder.dim)
    assert [block.stride for block in encoder.body.blocks] == [1] * 3 + [2] + [1] * 3 + [2] + [1] * 5 + [2] + [1] * 2
    assert (encoder.stride, encoder.num_layers) == (1280, 0)


def test_the_stem_of_the_authors_code_has_a_bias():
    plain, biased = (meta(ThinResNet34.Config(stem=stem)) for stem in ("norm_relu", "relu_norm"))
    counts = [sum(parameter.numel() for parameter in encoder.parameters()) for encoder in (plain, biased)]
    assert biased.body.stem.bias.shape == (16,)
    assert counts[1] - counts[0] == 16


def test_number_of_parameters_by_hand():
    stages = [(16, 16, 3), (16, 32, 4), (32, 64, 6), (64, 128, 3)]
    total = 16 * 9 + 32  # first convolution and its norm
    for before, width, blocks in stages:
        squeeze = width * (width // 8) * 2 + width // 8 + width
        total += blocks * (squeeze + 4 * width) + 9 * width * (before + (2 * blocks - 1) * width)
        total += width * before + 2 * width if before != width else 0
    total += 640 * 128 + 128 + 256 + 128 * 640  # pooling
    total += 640 * 512 + 512
    assert sum(parameter.numel() for parameter in meta(None).parameters()) == total
