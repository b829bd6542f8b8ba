from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.conv_frontend import CONV_KERNELS, CONV_STRIDES, ConvFrontend, conv_over_time


def test_frame_counts_are_those_of_the_convolutions():
    frontend = ConvFrontend(conv_dim=4)
    for samples in (400, 719, 720, 16000, 16123, 250000):
        frames, _ = frontend(torch.zeros(1, samples), torch.tensor([samples]))
        assert frames.shape[1] == frontend.num_frames(samples) == (samples - 400) // 320 + 1
    assert frontend.num_frames(399) == frontend.num_frames(0) == 0
    assert frontend.num_frames(torch.tensor([0, 399, 400, 16000])).tolist() == [0, 0, 1, 49]
    assert frontend.num_frames(249_600) == 779


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_against_plain_convolutions(norm, bias):
    torch.manual_seed(0)
    frontend = ConvFrontend(conv_dim=8, norm=norm, conv_bias=bias)
    wave = torch.randn(2, 4000)
    x = wave.unsqueeze(1)
    for i, (conv, stride) in enumerate(zip(frontend.convs, CONV_STRIDES, strict=True)):
        x = F.conv1d(x, conv.weight, conv.bias, stride=stride)
        if norm == "layer":
            x = F.layer_norm(x.transpose(1, 2), (8,)).transpose(1, 2)
        elif i == 0:
            x = F.group_norm(x, 8)
        x = F.gelu(x)
    found, _ = frontend(wave, torch.tensor([4000, 4000]))
    torch.testing.assert_close(found, x.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kernels", "strides", "hop", "field"),
    [((*CONV_KERNELS, 2), (*CONV_STRIDES, 2), 640, 720), ((8, 4), (4, 4), 16, 20), ((1, 3), (4, 2), 8, 9)],
)
def test_other_convolutions(kernels, strides, hop, field):
    frontend = ConvFrontend(conv_dim=4, kernels=kernels, strides=strides)
    assert (frontend.stride, frontend.field) == (hop, field)
    for samples in (field, field + hop - 1, field + hop, 5000):
        wave = torch.randn(1, samples)
        x = wave.unsqueeze(1)
        for i, (conv, stride) in enumerate(zip(frontend.convs, strides, strict=True)):
            x = F.conv1d(x, conv.weight, stride=stride)
            x = F.gelu(F.group_norm(x, 4) if i == 0 and x.shape[2] > 1 else x)
        if samples == 5000:
            torch.testing.assert_close(frontend(wave, torch.tensor([samples]))[0], x.mT, atol=1e-5, rtol=1e-5)
        assert x.shape[2] == frontend.num_frames(samples) == (samples - field) // hop + 1
    assert frontend.num_frames(torch.tensor([0, field - 1, field])).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=f"has no frame of {field}"):
        frontend(torch.zeros(1, field - 1), torch.tensor([field - 1]))


@pytest.mark.parametrize(("kernels", "strides"), [((), ()), ((10, 3), (5,)), ((10, 3), (5, 0)), ((10, -3), (5, 2))])
def test_convolutions_that_cannot_be(kernels, strides):
    with pytest.raises(ValueError, match="give a positive number of each for every convolution"):
        ConvFrontend(conv_dim=4, kernels=kernels, strides=strides)


def test_conv_over_time_is_conv1d():
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(6, 4, 5, stride=2, padding=2, groups=2)
    x = torch.randn(3, 21, 6)
    torch.testing.assert_close(conv_over_time(x, conv), conv(x.transpose(1, 2)).transpose(1, 2))
    assert conv_over_time(x, conv).is_contiguous()


def test_filters_of_single_channels_are_computed_in_float32_on_a_processor():
    # In bfloat16, oneDNN never finishes to build its kernel for this shape with two threads.
    program = """
import torch
from audiossl.nn.conv_frontend import conv_over_time
torch.set_num_threads(2)
torch.manual_seed(0)
conv = torch.nn.Conv1d(80, 80, 15, padding=7, groups=80)
x = torch.randn(3, 84, 80).bfloat16()
expected = conv(x.float().transpose(1, 2)).transpose(1, 2)
with torch.autocast("cpu", dtype=torch.bfloat16):
    found = conv_over_time(x, conv)
assert found.dtype == torch.bfloat16
torch.testing.assert_close(found, expected.bfloat16())
torch.testing.assert_close(conv_over_time(x, conv.bfloat16()).float(), expected, atol=0.02, rtol=0.02)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_one_frame_in_bfloat16_has_the_gradients_of_float32():
    # In bfloat16, oneDNN's gradient of the weights is not finite, or huge, for this shape.
    torch.manual_seed(0)
    conv, x = torch.nn.Conv1d(80, 32, 5, stride=2, padding=2), torch.randn(3, 1, 80)
    expected = torch.autograd.grad(conv_over_time(x, conv).square().sum(), conv.weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(conv_over_time(x, conv).float().square().sum(), conv.weight)[0]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_kaiming_normal_start():
    frontend = ConvFrontend(conv_dim=256)
    for conv, kernel in zip(frontend.convs, CONV_KERNELS, strict=True):
        expected = (2 / (conv.in_channels * kernel)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert conv.bias is None


def test_no_bias_before_the_group_norm():
    biases = [conv.bias is not None for conv in ConvFrontend(conv_dim=4, conv_bias=True).convs]
    assert biases == [False] + [True] * 6


def test_errors():
    with pytest.raises(ValueError, match="waveform of 399 samples"):
        ConvFrontend(conv_dim=4)(torch.zeros(1, 399), torch.tensor([399]))
    with pytest.raises(ValueError, match="legacy_norm"):
        ConvFrontend(conv_dim=4, norm="layer", legacy_norm=True)


def test_sample_rate_is_that_of_the_recordings():
    assert ConvFrontend(conv_dim=4).sample_rate == 16000
    assert ConvFrontend(conv_dim=4, sample_rate=24000).sample_rate == 24000
    with pytest.raises(ValueError, match="sample_rate 0 Hz"):
        ConvFrontend(conv_dim=4, sample_rate=0)
