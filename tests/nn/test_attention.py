from __future__ import annotations

import math

import pytest
import torch

from audiossl.nn.attention import FrameLayout, SelfAttention

LENGTHS = [7, 3, 1, 5]
# On the processor packed attention goes through torch's older nested tensors, which warn that they are a prototype.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def oracle(attention, x, lengths):
    """Head by head and query by query."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    dim = x.shape[-1]
    size = dim // attention.num_heads
    result = torch.zeros_like(x)
    for b, length in enumerate(lengths):
        q, k, v = (
            x[b, :length] @ weight[i * dim : (i + 1) * dim].t() + bias[i * dim : (i + 1) * dim] for i in range(3)
        )
        for head in range(attention.num_heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(length):
                scores = torch.softmax(torch.stack([q[t, part] @ key for key in k[:, part]]) / math.sqrt(size), 0)
                result[b, t, part] = scores @ v[:, part]
        result[b, :length] = result[b, :length] @ attention.out.weight.t() + attention.out.bias
    return result


def make():
    torch.manual_seed(0)
    return SelfAttention(12, 3).double(), torch.randn(4, 7, 12, dtype=torch.float64)


@pytest.mark.parametrize("packed", [False, True])
def test_against_the_oracle(packed):
    attention, x = make()
    layout = FrameLayout.of(torch.tensor(LENGTHS), 7, packed=packed)
    found = layout.leave(attention(layout.enter(x), layout))
    expected = oracle(attention, x, LENGTHS)
    for row, target, length in zip(found, expected, LENGTHS, strict=True):
        torch.testing.assert_close(row[:length], target[:length])
        if packed:
            assert not row[length:].any()


def test_even_batches_have_no_mask():
    attention, x = make()
    for packed in (False, True):
        layout = FrameLayout.of(torch.full((4,), 7), 7, packed=packed)
        assert layout.key_mask is None
        assert layout.index is None
        torch.testing.assert_close(attention(x, layout), oracle(attention, x, [7] * 4))


def test_mask_is_never_square():
    layout = FrameLayout.of(torch.tensor(LENGTHS), 7, packed=False)
    assert layout.key_mask.shape == (4, 1, 1, 7)


@pytest.mark.parametrize("packed", [False, True])
def test_an_utterance_without_frames_is_finite(packed):
    attention, x = make()
    layout = FrameLayout.of(torch.tensor([7, 0, 2, 1]), 7, packed=packed)
    assert layout.leave(attention(layout.enter(x), layout)).isfinite().all()


def test_packed_gradients_are_the_masked_ones():
    attention, x = make()
    valid = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    gradients = []
    for packed in (False, True):
        layout = FrameLayout.of(torch.tensor(LENGTHS), 7, packed=packed)
        y = layout.leave(attention(layout.enter(x), layout))[valid]
        gradients.append(torch.autograd.grad(y.square().sum(), list(attention.parameters())))
    for masked, unmasked in zip(*gradients, strict=True):
        torch.testing.assert_close(masked, unmasked)


def test_dropout_in_training_only():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, dropout=0.5)
    x, layout = torch.randn(1, 7, 12), FrameLayout.of(torch.tensor([7]), 7, packed=False)
    assert not torch.equal(attention(x, layout), attention(x, layout))
    attention.eval()
    assert torch.equal(attention(x, layout), attention(x, layout))


def test_error():
    with pytest.raises(ValueError, match="num_heads 5"):
        SelfAttention(12, 5)


@pytest.mark.parametrize("relax", [1.0, 32.0])
def test_relaxed_attention_is_the_same_attention(relax):
    attention, x = make()
    attention.relax = relax
    layout = FrameLayout.of(torch.tensor(LENGTHS), 7, packed=False)
    found = attention(x, layout)
    for row, target, length in zip(found, oracle(attention, x, LENGTHS), LENGTHS, strict=True):
        torch.testing.assert_close(row[:length], target[:length])


def test_relaxed_logits_fit_into_float16():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, relax=32.0)
    with torch.no_grad():
        attention.qkv.weight.mul_(300)
    x, layout = torch.randn(1, 7, 12), FrameLayout.of(torch.tensor([7]), 7, packed=False)
    query, key, _ = attention.qkv(x).unflatten(-1, (3, 3, -1)).unbind(-3)
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / 2
    assert logits.abs().max() > 65504  # the largest number in float16
    assert (logits / 32).abs().max() < 65504
    exact = attention.double()(x.double(), layout)
    torch.testing.assert_close(attention.half()(x.half(), layout).double(), exact, rtol=0.02, atol=0.02)
