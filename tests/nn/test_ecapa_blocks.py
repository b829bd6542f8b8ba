"""ECAPA-TDNN against its equations written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracles import array, attentive_statistics, batch_norm, conv1d, linear, relu, sigmoid, unsettle

from audiossl.nn.ecapa_blocks import EcapaBody, Res2Conv, SERes2Block, TimeConv, mirrored


def time_conv_oracle(x, layer):
    reach = layer.mirrored
    y = conv1d(np.pad(x, ((0, 0), (reach, reach)), mode="reflect") if reach else x, layer.conv)
    return batch_norm(relu(y[:, reach : y.shape[1] - reach]), layer.norm)


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


def sslsv_oracle(features, body):
    """The network of the published figures of sslsv. features: (frame, in_dim)."""
    layers = [time_conv_oracle(features.T, body.enter)]
    for block in body.blocks:
        layers.append(block_oracle(layers[-1], block))
    aggregated = batch_norm(relu(conv1d(np.concatenate(layers[1:]), body.aggregate)), body.aggregate_norm).T
    pooled = batch_norm(attentive_statistics(aggregated, body.pooling, floor=1e-12), body.pooled_norm)
    return [x.T for x in layers], linear(pooled, body.embedding)


ORACLES = {"paper": body_oracle, "sslsv": sslsv_oracle}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (5, 1), (3, 4)])
def test_time_conv(kernel, dilation, reflect):
    layer, x = unsettle(TimeConv(4, 6, kernel, dilation, reflect=reflect).double()), random(1, 4, 11)
    np.testing.assert_allclose(array(layer(x, None)[0]), time_conv_oracle(array(x[0]), layer), atol=1e-10)


def test_res2_and_its_block():
    res2 = unsettle(Res2Conv(12, kernel=3, dilation=2, scale=4).double())
    block = unsettle(SERes2Block(12, dilation=3, scale=4, bottleneck=5).double())
    x = random(1, 12, 9)
    np.testing.assert_allclose(array(res2(x, None)[0]), res2_oracle(array(x[0]), res2), atol=1e-10)
    found = block(x, torch.tensor([9]), None)
    np.testing.assert_allclose(array(found[0]), block_oracle(array(x[0]), block), atol=1e-10)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(1, [0, 0, 0, 0, 0, 0, 0]), (3, [1, 2, 1, 0, 1, 2, 1, 0, 0]), (5, [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1])],
)
def test_mirror_images_of_short_utterances(frames, expected):
    """Beside padding and without."""
    row = torch.arange(float(frames))
    found = mirrored(row.view(1, 1, -1), None, 3)[0, 0]
    padded = torch.cat([row, torch.full((4,), torch.nan)]).view(1, 1, -1)
    beside = mirrored(padded, ~padded.isnan(), 3)[0, 0, : frames + 6]
    assert found.tolist() == beside.tolist() == expected


def small(variant="paper"):
    torch.manual_seed(0)
    body = EcapaBody(7, channels=8, pooled_dim=10, embedding_dim=6, scale=4, bottleneck=5, variant=variant)
    return unsettle(body.double())


@pytest.mark.parametrize("variant", ORACLES)
def test_body_beside_padding(variant):
    body, features, lengths = small(variant), random(3, 17, 7), [17, 10, 1]
    for row, count in enumerate(lengths):
        features[row, count:] = 0
    output = body.frame_layers(features, torch.tensor(lengths))
    embeddings = body.pool(output)
    assert embeddings.shape == (3, body.embedding_dim)
    assert len(output.layers) == body.num_layers + 1
    for row, count in enumerate(lengths):
        layers, embedding = ORACLES[variant](array(features[row, :count]), body)
        np.testing.assert_allclose(array(embeddings[row]), embedding, atol=1e-9)
        for found, expected in zip(output.layers, layers, strict=True):
            np.testing.assert_allclose(array(found[row, :count]), expected, atol=1e-9)


@pytest.mark.parametrize("variant", ORACLES)
def test_every_parameter_learns(variant):
    body = small(variant).train()
    body.pool(body.frame_layers(random(3, 17, 7), torch.tensor([17, 10, 6]))).square().sum().backward()
    assert [name for name, p in body.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in body.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("reflect", [False, True])
def test_gradients_of_a_block(reflect):
    block = unsettle(SERes2Block(4, dilation=2, scale=2, bottleneck=3, reflect=reflect).double())
    x = random(1, 4, 4).requires_grad_()
    valid = torch.tensor([[[True, True, True, False]]])
    assert torch.autograd.gradcheck(lambda x: block(x, torch.tensor([3]), valid), x)


def test_channels_must_divide():
    with pytest.raises(ValueError, match="channels 10 .* scale 4"):
        Res2Conv(10, kernel=3, dilation=2, scale=4)
