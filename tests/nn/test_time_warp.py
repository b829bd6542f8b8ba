"""Warping against torch's own bicubic interpolation of the two halves."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from audiossl.nn.time_warp import time_warp


def warp(features, lengths, window, seed):
    return time_warp(features, torch.tensor(lengths), window=window, generator=torch.Generator().manual_seed(seed))


def by_interpolation(frames, center, place):
    """Resize the frames before and after `center` to `place` and the rest: (frame, channel)."""
    channels = frames.shape[1]
    halves = [(frames[:center], place), (frames[center:], len(frames) - place)]
    resized = [
        F.interpolate(half[None, None], (size, channels), mode="bicubic", align_corners=False)[0, 0]
        for half, size in halves
    ]
    return torch.cat(resized)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_one_of_the_warps_of_the_published_code(seed):
    generator = torch.Generator().manual_seed(seed)
    features, lengths, window = torch.randn(3, 30, 4, generator=generator).double(), [30, 17, 23], 4
    warped = warp(features, lengths, window, seed)
    for row, found, length in zip(features, warped, lengths, strict=True):
        matches = [
            (center, place)
            for center in range(window, length - window)
            for place in range(center - window + 1, center + window + 1)
            if torch.allclose(by_interpolation(row[:length], center, place), found[:length], atol=1e-10)
        ]
        assert len(matches) >= 1
        assert torch.equal(found[length:], row[length:])


def test_all_warps_are_drawn():
    ramp = torch.arange(20.0).double()[None, :, None]
    seen = {tuple(warp(ramp, [20], 2, seed).flatten().tolist()) for seed in range(600)}
    # 16 frames that move, to 4 places each; those that stay are the same.
    assert len(seen) == 16 * 3 + 1


def test_short_utterances_and_no_window_are_left_alone():
    features = torch.randn(2, 12, 3)
    assert torch.equal(warp(features, [12, 8], 0, 0), features)
    warped = warp(features, [12, 8], 4, 0)
    assert torch.equal(warped[1], features[1])
    assert torch.equal(warp(features, [8, 8], 4, 0), features)
    assert not torch.equal(warp(features, [12, 8], 4, 1)[0], features[0]) or not torch.equal(warped[0], features[0])


def test_gradients_flow():
    features = torch.randn(1, 15, 2, requires_grad=True)
    warp(features, [15], 3, 3).sum().backward()
    assert features.grad.sum().item() == pytest.approx(30.0, rel=1e-4)  # the weights of each frame add up to 1
