"""ECAPA-TDNN against its equations written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracles import array, attentive_statistics, batch_norm, conv1d, linear, relu, sigmoid, unsettle

from audiossl.nn.ecapa_blocks import EcapaBody, Res2Conv, SERes2Block, TimeConv


def time_conv_oracle(x, layer):
    return batch_norm(relu(conv1d(x, layer.conv)), layer.norm)


def res2_oracle(x, layer):
    """x: (channel, frame)."""
    groups = np.split(x, layer.scale)
    results = [groups[0]]
    for i in range(1, layer.scale):
        entering = groups[i] if i == 1 else groups[i] + results[-1]
        results.append(time_conv_oracle(entering, layer.convs[i - 1]))
    return np.concatenate(results)


def block_oracle(x, block):
    y = time_conv_oracle(res2_oracle(time_conv_oracle(x, block.enter), block.res2), block.leave)
    gate = sigmoid(linear(relu(linear(y.mean(1), block.squeeze)), block.excite))
    return y * gate[:, None] + x


def body_oracle(features, body):
    """features: (frame, in_dim)."""
    x1 = time_conv_oracle(features.T, body.enter)
    x2 = block_oracle(x1, body.blocks[0])
    x3 = block_oracle(x1 + x2, body.blocks[1])
    x4 = block_oracle(x1 + x2 + x3, body.blocks[2])
    aggregated = relu(conv1d(np.concatenate([x2, x3, x4]), body.aggregate)).T
    pooled = batch_norm(attentive_statistics(aggregated, body.pooling), body.pooled_norm)
    return [x.T for x in (x1, x2, x3, x4)], batch_norm(linear(pooled, body.embedding), body.embedding_norm)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (5, 1), (3, 4)])
def test_time_conv(kernel, dilation):
    layer, x = unsettle(TimeConv(4, 6, kernel, dilation).double()), random(1, 4, 11)
    np.testing.assert_allclose(array(layer(x, None)[0]), time_conv_oracle(array(x[0]), layer), atol=1e-10)


def test_res2_and_its_block():
    res2 = unsettle(Res2Conv(12, kernel=3, dilation=2, scale=4).double())
    block = unsettle(SERes2Block(12, dilation=3, scale=4, bottleneck=5).double())
    x = random(1, 12, 9)
    np.testing.assert_allclose(array(res2(x, None)[0]), res2_oracle(array(x[0]), res2), atol=1e-10)
    found = block(x, torch.tensor([9]), None)
    np.testing.assert_allclose(array(found[0]), block_oracle(array(x[0]), block), atol=1e-10)


def small():
    torch.manual_seed(0)
    body = EcapaBody(7, channels=8, pooled_dim=10, embedding_dim=6, scale=4, bottleneck=5)
    return unsettle(body.double())


def test_body_beside_padding():
    body, features, lengths = small(), random(3, 17, 7), [17, 10, 1]
    for row, count in enumerate(lengths):
        features[row, count:] = 0
    output = body.frame_layers(features, torch.tensor(lengths))
    embeddings = body.pool(output)
    assert embeddings.shape == (3, body.embedding_dim)
    assert len(output.layers) == body.num_layers + 1
    for row, count in enumerate(lengths):
        layers, embedding = body_oracle(array(features[row, :count]), body)
        np.testing.assert_allclose(array(embeddings[row]), embedding, atol=1e-9)
        for found, expected in zip(output.layers, layers, strict=True):
            np.testing.assert_allclose(array(found[row, :count]), expected, atol=1e-9)


def test_gradients_of_a_block():
    block = unsettle(SERes2Block(4, dilation=2, scale=2, bottleneck=3).double())
    x = random(1, 4, 4).requires_grad_()
    valid = torch.tensor([[[True, True, True, False]]])
    assert torch.autograd.gradcheck(lambda x: block(x, torch.tensor([3]), valid), x)


def test_channels_must_divide():
    with pytest.raises(ValueError, match="channels 10 .* scale 4"):
        Res2Conv(10, kernel=3, dilation=2, scale=4)
