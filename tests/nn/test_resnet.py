"""Residual networks on spectrograms against convolutions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracles import array, batch_norm, conv2d, linear, relu, sigmoid, unsettle
from torch import nn

from audiossl.nn.resnet import ResNetBody, ResNetShape, SEResidualBlock, zero_tail
from audiossl.nn.statistics_pooling import StatisticsPooling


def block_oracle(x, block):
    """x: (channel, frame, bin)."""
    y = batch_norm(relu(conv2d(x, block.conv1)), block.norm1)
    y = batch_norm(conv2d(y, block.conv2), block.norm2)
    gate = sigmoid(linear(relu(linear(y.mean((1, 2)), block.squeeze)), block.excite))
    if not isinstance(block.shortcut, nn.Identity):
        x = batch_norm(conv2d(x, block.shortcut[0]), block.shortcut[1])
    return relu(y * gate[:, None, None] + x)


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (16, 2), (16, 1), (8, 2)])
def test_block(channels, stride):
    torch.manual_seed(0)
    block = unsettle(SEResidualBlock(8, channels, stride=stride).double())
    maps = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    frames = -(-7 // stride)
    found = block(maps, torch.tensor([frames, frames]), None)
    for row in range(2):
        np.testing.assert_allclose(array(found[row]), block_oracle(array(maps[row]), block), atol=1e-10)


STEMS = ["norm_relu", "relu_norm"]


def small(*, mean_over_bins=False, seed=0, stem="norm_relu"):
    torch.manual_seed(seed)
    sizes = {"base_channels": 16, "strides": (1, 2, 2), "blocks": (1, 2, 1)}
    shape = ResNetShape(stem_kernel=7, stem_stride=2, stem=stem, **sizes)
    body = ResNetBody(9, shape, mean_over_bins=mean_over_bins, pooling=StatisticsPooling, embedding_dim=5)
    return unsettle(body.double())


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("mean_over_bins", [True, False])
def test_body(mean_over_bins, stem):
    body = small(mean_over_bins=mean_over_bins, stem=stem)
    features = torch.randn(1, 13, 9, dtype=torch.float64)
    output = body.frame_layers(features, torch.tensor([13]))
    maps = conv2d(array(features), body.stem)
    if stem == "norm_relu":
        maps = relu(batch_norm(maps, body.stem_norm))
    else:
        maps = batch_norm(relu(maps + array(body.stem.bias)[:, None, None]), body.stem_norm)
    assert maps.shape == (16, 13, 5)
    for block in body.blocks:
        maps = block_oracle(maps, block)
    assert maps.shape == (64, 4, 2)
    frames = maps.mean(2).T if mean_over_bins else np.stack([maps[:, t].reshape(-1) for t in range(4)])
    assert output.lengths.tolist() == [4]
    assert len(output.layers) == body.num_layers + 1
    assert output.layers[0].shape == (1, 4, body.dim)
    np.testing.assert_allclose(array(output.layers[0][0]), frames, atol=1e-10)
    pooled = np.concatenate([frames.mean(0), np.sqrt(np.maximum(frames.var(0), 1e-5))])
    np.testing.assert_allclose(array(body.pool(output)[0]), linear(pooled, body.embedding), atol=1e-10)


@pytest.mark.parametrize("stem", STEMS)
def test_padding_changes_nothing(stem):
    body = small(stem=stem)
    lengths = torch.tensor([22, 13, 1])
    features = torch.randn(3, 22, 9, dtype=torch.float64)
    for row, count in enumerate(lengths):
        features[row, count:] = 0
    together = body.frame_layers(features, lengths)
    assert together.lengths.tolist() == [6, 4, 1]
    embeddings = body.pool(together)
    for row, count in enumerate(lengths):
        alone = body.frame_layers(features[row : row + 1, :count], lengths[row : row + 1])
        torch.testing.assert_close(together.layers[0][row, : alone.layers[0].shape[1]], alone.layers[0][0])
        torch.testing.assert_close(embeddings[row], body.pool(alone)[0])


@pytest.mark.parametrize("stem", STEMS)
def test_the_stem_learns_beside_padding(stem):
    body = small(stem=stem).train()
    lengths = torch.tensor([22, 13])
    output = body.frame_layers(torch.randn(2, 22, 9, dtype=torch.float64), lengths)
    body.pool(output).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in body.parameters())
    assert all(p.grad.any() for part in (body.stem, body.stem_norm) for p in part.parameters())


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("mean_over_bins", [True, False])
def test_folded_batch_norms_change_nothing(mean_over_bins, stem):
    body = small(mean_over_bins=mean_over_bins, stem=stem).eval()
    lengths = torch.tensor([22, 13])
    features = torch.randn(2, 22, 9, dtype=torch.float64)
    features[1, 13:] = 0
    expected = body.pool(body.frame_layers(features, lengths))
    body.fold_norms()
    left = len(body.blocks) + (stem == "relu_norm")
    assert sum(isinstance(module, nn.BatchNorm2d) for module in body.modules()) == left
    assert all(isinstance(block.norm1, nn.BatchNorm2d) for block in body.blocks)
    torch.testing.assert_close(body.pool(body.frame_layers(features, lengths)), expected, atol=1e-10, rtol=1e-10)


def test_the_tail_of_maps_is_zeroed_where_it_is_padding():
    maps = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    valid = torch.tensor([[True, True], [True, False]])[:, None, :, None]
    assert zero_tail(maps, valid) is maps
    assert maps.sum((1, 3)).tolist() == [[15, 15, 15, 15], [15, 15, 15, 0]]
    assert zero_tail(maps, None) is maps


def test_channels_last_all_the_way():
    body = small().float()
    seen = []
    for block in body.blocks:
        block.register_forward_hook(lambda _, __, y: seen.append(y.is_contiguous(memory_format=torch.channels_last)))
    body.frame_layers(torch.randn(2, 16, 9), torch.tensor([16, 9]))
    assert seen == [True] * 4


def test_gradients_of_a_block():
    torch.manual_seed(0)
    block = unsettle(SEResidualBlock(8, 16, stride=2).double())
    maps = torch.randn(1, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([True, False])[None, None, :, None]
    assert torch.autograd.gradcheck(lambda x: block(x, torch.tensor([1]), valid), maps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1, 2)}, r"blocks \(1, 2\)"),
        ({"blocks": (1, 0, 1)}, r"blocks \(1, 0"),
        ({"base_channels": 4}, "base_channels 4"),
    ],
)
def test_errors(changes, message):
    sound = {"stem_kernel": 3, "stem_stride": 1, "base_channels": 16, "strides": (1, 2, 2), "blocks": (1, 1, 1)}
    with pytest.raises(ValueError, match=message):
        ResNetShape(**{**sound, **changes})
