"""Poolings against loops over utterances in float64, with NaN in the padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracles import array, attentive_statistics, batch_norm, linear, relu, softmax, unsettle

from audiossl.nn.statistics_pooling import (
    AttentiveStatisticsPooling,
    ChannelAttentivePooling,
    SelfAttentivePooling,
    StatisticsPooling,
)

LENGTHS = [7, 1, 4]


def batch():
    torch.manual_seed(0)
    frames = torch.randn(3, 7, 5, dtype=torch.float64) * 2 + 1
    for row, count in enumerate(LENGTHS):
        frames[row, count:] = torch.nan
    return frames


def statistics_oracle(x, _):
    return np.concatenate([x.mean(0), np.sqrt(np.maximum(x.var(0), 1e-5))])


def self_attentive_oracle(x, pooling):
    u = array(pooling.query.weight)[0]
    weights = softmax(np.array([u @ np.tanh(linear(frame, pooling.hidden)) for frame in x]))
    return sum(w * frame for w, frame in zip(weights, x, strict=True))


def channel_attentive_oracle(x, pooling):
    hidden = batch_norm(relu(linear(x, pooling.hidden)).T, pooling.norm).T
    return (softmax(linear(hidden, pooling.query)) * x).sum(0)


POOLINGS = {
    "statistics": (StatisticsPooling, statistics_oracle, 10),
    "self_attentive": (SelfAttentivePooling, self_attentive_oracle, 5),
    "channel_attentive": (lambda dim: ChannelAttentivePooling(dim, 6), channel_attentive_oracle, 5),
    "attentive_statistics": (lambda dim: AttentiveStatisticsPooling(dim, 6), attentive_statistics, 10),
    "normalised_attention": (
        lambda dim: AttentiveStatisticsPooling(dim, 6, normalised=True),
        lambda x, pooling: attentive_statistics(x, pooling, floor=1e-12),
        10,
    ),
}


def make(name):
    torch.manual_seed(1)
    return unsettle(POOLINGS[name][0](5).double())


@pytest.mark.parametrize("name", POOLINGS)
def test_equals_a_loop_and_ignores_padding(name):
    pooling, frames = make(name), batch()
    found = pooling(frames, torch.tensor(LENGTHS))
    assert found.shape == (3, pooling.out_dim) == (3, POOLINGS[name][2])
    for row, count in enumerate(LENGTHS):
        expected = POOLINGS[name][1](array(frames[row, :count]), pooling)
        np.testing.assert_allclose(array(found[row]), expected, atol=1e-10)


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients(name):
    pooling = make(name)
    frames = batch()[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooling(x, torch.tensor([7])), frames)
    pooling(frames, torch.tensor([7])).square().sum().backward()
    assert [key for key, p in pooling.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_are_finite_where_nothing_moves_or_is_not_a_number(name):
    pooling = make(name)
    still = torch.ones(3, 7, 5, dtype=torch.float64).requires_grad_()
    frames = torch.where(torch.isnan(batch()), torch.nan, still)
    pooling(frames, torch.tensor(LENGTHS)).sum().backward()
    assert still.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in pooling.parameters())


@pytest.mark.parametrize("name", POOLINGS)
def test_no_frames_and_autocast(name):
    pooling = make(name).float()
    frames = torch.nan_to_num(batch()).float()
    assert pooling(frames, torch.tensor([7, 0, 4])).isfinite().all()
    assert pooling(frames, torch.tensor(LENGTHS)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pooling(frames.bfloat16(), torch.tensor(LENGTHS))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, pooling(frames, torch.tensor(LENGTHS)), atol=0.1, rtol=0.05)
