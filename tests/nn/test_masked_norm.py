from __future__ import annotations

import torch
import torch.nn.functional as F

from audiossl.nn.masked_norm import MaskedGroupNorm


def make(legacy, dtype=torch.float64):
    torch.manual_seed(0)
    norm = MaskedGroupNorm(6, legacy=legacy).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    wave = torch.randn(3, 205, dtype=dtype) * torch.tensor([[1.0], [0.003], [30.0]], dtype=dtype) + 0.1
    kernel = torch.randn(6, 10, dtype=dtype, requires_grad=True)
    return norm, wave, kernel


def oracle(norm, wave, kernel):
    convolved = F.conv1d(wave.unsqueeze(1), kernel.unsqueeze(1), stride=5)
    return F.group_norm(convolved, 6, norm.weight, norm.bias).transpose(1, 2)


def test_legacy_is_convolution_then_group_norm():
    norm, wave, kernel = make(legacy=True)
    found = norm(wave.unfold(1, 10, 5), kernel, torch.tensor([40, 20, 10]))
    torch.testing.assert_close(found, oracle(norm, wave, kernel), atol=1e-5, rtol=1e-5)


def test_padding_has_no_part_in_the_statistics():
    norm, wave, kernel = make(legacy=False)
    samples = [205, 110, 63]
    frames = torch.tensor([(n - 10) // 5 + 1 for n in samples])
    found = norm(wave.unfold(1, 10, 5), kernel, frames)
    for row, n, count in zip(range(3), samples, frames, strict=True):
        expected = oracle(norm, wave[row : row + 1, :n], kernel)[0]
        torch.testing.assert_close(found[row, :count], expected, atol=1e-5, rtol=1e-5)


def test_long_utterances_stay_exact():
    torch.manual_seed(0)
    norm, kernel = MaskedGroupNorm(6, legacy=True), torch.randn(6, 10) * 0.3
    wave = torch.randn(1, 250_000)
    wave[:, 90_000:] = 0
    found = norm(wave.unfold(1, 10, 5), kernel, torch.tensor([49_999]))
    expected = oracle(norm.double(), wave.double(), kernel.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_strong_hum_under_a_high_pass_kernel_leaves_what_the_plain_norm_leaves():
    torch.manual_seed(0)
    norm, kernel = MaskedGroupNorm(6), torch.zeros(6, 10)
    kernel[:, :3] = torch.tensor([1.0, -2.0, 1.0])
    wave = 2.0**15 * (0.6 * torch.sin(torch.arange(32_000) * (2 * torch.pi * 50 / 16_000)) + 1e-5 * torch.randn(32_000))
    windows = wave[None].unfold(1, 10, 5)
    found = norm(windows, kernel, torch.tensor([windows.shape[1]]))
    expected = oracle(norm.double(), wave[None].double(), kernel.double())
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0)  # windows are centred in float32


def test_gradients_are_the_oracles():
    norm, wave, kernel = make(legacy=False)
    weights = torch.randn(3, 40, 6, dtype=torch.float64)
    everything = [kernel, norm.weight, norm.bias]
    found = norm(wave.unfold(1, 10, 5), kernel, torch.tensor([40, 40, 40]))
    gradients = torch.autograd.grad((found * weights).sum(), everything)
    expected = torch.autograd.grad((oracle(norm, wave, kernel) * weights).sum(), everything)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_bfloat16_differs_by_its_rounding_only():
    norm, wave, kernel = make(legacy=False, dtype=torch.float32)
    windows, frames = wave.unfold(1, 10, 5), torch.tensor([40, 40, 40])
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(windows, kernel, frames)
    # Products of ten terms of size about 1, each rounded to 8 bits.
    torch.testing.assert_close(found.float(), norm(windows, kernel, frames), atol=0.05, rtol=0.02)
