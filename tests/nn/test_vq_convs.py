from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.vq_convs import KERNELS, STRIDES, CausalAggregator, VQFeatureConvs


@pytest.mark.parametrize(("activation", "log_compression"), [("gelu", False), ("relu", True)])
def test_features_against_torch(activation, log_compression):
    torch.manual_seed(0)
    net = VQFeatureConvs(8, activation=activation, log_compression=log_compression)
    x = torch.randn(1, 1, 3217)
    found, lengths = net(x[:, 0], torch.tensor([3217]))
    for conv, norm, stride in zip(net.convs, net.norms, STRIDES, strict=True):
        x = getattr(F, activation)(F.group_norm(F.conv1d(x, conv.weight, stride=stride), 1, norm.weight, norm.bias))
    wanted = torch.log(1 + x.abs()) if log_compression else x
    torch.testing.assert_close(found, wanted.transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert lengths.tolist() == [found.shape[1]] == [net.num_frames(3217)]


def test_receptive_field_and_hop():
    net = VQFeatureConvs(1, activation="gelu", log_compression=False)
    field, hop = 1, 1
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        field, hop = field + (kernel - 1) * hop, hop * stride
    assert (field, hop, net.stride) == (465, 160, 160)
    assert [net.num_frames(n) for n in (464, 465, 624, 625)] == [0, 1, 1, 2]
    assert net.num_frames(torch.tensor([0, 465])).tolist() == [0, 1]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_aggregator_against_torch(activation):
    torch.manual_seed(0)
    net = CausalAggregator(4, (2, 3, 5), activation=activation)
    x = torch.randn(1, 4, 9)
    found = net(x.transpose(1, 2), torch.tensor([9]))
    for conv, norm, kernel in zip(net.convs, net.norms, (2, 3, 5), strict=True):
        y = F.conv1d(F.pad(x, (kernel - 1, 0), mode="replicate"), conv.weight, conv.bias)
        x = (x + getattr(F, activation)(F.group_norm(y, 1, norm.weight, norm.bias))) * math.sqrt(0.5)
    torch.testing.assert_close(found, x.transpose(1, 2))


def test_aggregator_hears_only_the_past():
    """But for the statistics of its norms, which are taken away here."""
    net = CausalAggregator(4, (2, 3, 5), activation="gelu")
    for norm in net.norms:
        norm.forward = lambda x, lengths: x
    x = torch.randn(1, 9, 4, requires_grad=True)
    net(x, torch.tensor([9]))[0, 4].sum().backward()
    assert x.grad[0, :5].abs().sum(1).all()
    assert not x.grad[0, 5:].any()
