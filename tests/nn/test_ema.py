"""Followers against the average written out in NumPy, and the published schedules."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from audiossl.nn.ema import WithFollowers, cosine_decay, exponential_decay, follow, follower_of, linear_decay


def layers(seed):
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(3)
    norm.running_mean.normal_()
    return nn.Sequential(nn.Linear(4, 3), norm)


def test_parameters_are_averaged_and_buffers_copied():
    follower, leader = follower_of(layers(0)), layers(1)
    expected = [p.double().numpy().copy() for p in follower.parameters()]
    for step in range(5):
        with torch.no_grad():
            leader[0].weight += step
        follow([(follower, leader)], 0.9, buffers=True)
        for wanted, p in zip(expected, leader.parameters(), strict=True):
            wanted *= 0.9
            wanted += (1 - 0.9) * p.detach().double().numpy()
    for wanted, p in zip(expected, follower.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), wanted, rtol=1e-5)
    assert torch.equal(follower[1].running_mean, leader[1].running_mean)


def test_buffers_stay_where_they_are_a_modules_own():
    follower, leader = follower_of(layers(0)), layers(1)
    before = follower[1].running_mean.clone()
    follow([(follower, leader)], 0.5, buffers=False)
    assert torch.equal(follower[1].running_mean, before)


def test_decay_0_copies_and_1_keeps():
    follower, leader = follower_of(layers(0)), layers(1)
    before = {name: value.clone() for name, value in follower.state_dict().items()}
    follow([(follower, leader)], 1.0, buffers=True)
    assert all(torch.equal(before[name], value) for name, value in follower.state_dict().items())
    follow([(follower, leader)], 0.0, buffers=True)
    assert all(torch.equal(leader.state_dict()[name], value) for name, value in follower.state_dict().items())


def test_followers_get_no_gradient_and_leave_the_leader_alone():
    leader = layers(0)
    follower = follower_of(leader)
    assert not any(p.requires_grad for p in follower.parameters())
    assert all(p.requires_grad for p in leader.parameters())
    with torch.no_grad():
        follower[0].weight.zero_()
    assert leader[0].weight.any()


class Pair(WithFollowers):
    def __init__(self, seed):
        super().__init__()
        self.leader = layers(seed)
        self.teacher = follower_of(self.leader)

    def pairs(self):
        return [(self.teacher, self.leader)]


def test_a_teacher_begins_once():
    pair, other = Pair(0), layers(1)
    pair.leader.load_state_dict(other.state_dict())
    pair.begin()
    assert torch.equal(pair.teacher[0].weight, other[0].weight)
    with torch.no_grad():
        pair.leader[0].weight += 1
    pair.begin()
    resumed = Pair(2)
    resumed.load_state_dict(pair.state_dict())
    resumed.begin()
    for each in (pair, resumed):
        assert torch.equal(each.teacher[0].weight, other[0].weight)


def test_linear_schedule():
    values = [linear_decay(step, start=0.999, end=0.99999, steps=75_000) for step in (1, 37_500, 75_000, 400_000)]
    assert values == pytest.approx([0.999 + 0.00099 / 75_000, 0.999495, 0.99999, 0.99999], abs=1e-15)
    assert linear_decay(15_000, start=0.999, end=0.9999, steps=30_000) == pytest.approx(0.99945, abs=1e-15)


def test_cosine_schedule():
    values = [cosine_decay(step, start=0.996, steps=1000) for step in (1, 251, 501, 1001, 5000)]
    assert values == pytest.approx([0.996, 1 - 0.004 * (math.sqrt(0.5) + 1) / 2, 0.998, 1, 1], abs=1e-15)


def test_exponential_schedule_freezes():
    def decay(step):
        return exponential_decay(step, start=0.999, time_constant=20_000)

    assert decay(20_000) == pytest.approx(1 - 0.001 / math.e, abs=1e-15)
    assert decay(1) == pytest.approx(1 - 0.001 * math.exp(-1 / 20_000), abs=1e-15)
    last = math.floor(20_000 * math.log(1e4))  # 0.001 e^(-n / 20000) > 1e-7
    assert decay(last) < 1
    assert decay(last + 1) == decay(400_000) == 1
