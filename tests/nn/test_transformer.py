from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from audiossl.nn.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(
    num_layers=3, dim=16, ffn_dim=32, num_heads=2, layer_drop=0.0, position_kernel=6, position_groups=2
)
LENGTHS = torch.tensor([9, 4, 7])
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def make(*, packed=None, **changes):
    torch.manual_seed(0)
    return Transformer(replace(SMALL, **changes), packed=packed).eval(), torch.randn(3, 9, 16)


def norm(layer, x):
    return F.layer_norm(x, (16,), layer.weight, layer.bias)


def oracle(model, x):
    """One utterance without padding, (frame, dim), from the published equations."""

    def attention(layer, x):
        q, k, v = layer.attention.qkv(x).view(len(x), 3, 2, 8).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
        return layer.attention.out((weights @ v).transpose(0, 1).reshape(len(x), 16))

    def ffn(layer, x):
        return layer.ffn_out(F.gelu(layer.ffn_in(x)))

    x = x + model.positions(x[None])[0]
    outputs = [x := x if model.pre_norm else norm(model.norm, x)]
    for layer in model.layers:
        if model.pre_norm:
            x = x + attention(layer, norm(layer.attention_norm, x))
            x = x + ffn(layer, norm(layer.ffn_norm, x))
        else:
            x = norm(layer.attention_norm, x + attention(layer, x))
            x = norm(layer.ffn_norm, x + ffn(layer, x))
        outputs.append(x)
    if model.pre_norm:
        outputs[-1] = norm(model.norm, x)
    return outputs


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_each_layer_against_the_equations(pre_norm, packed):
    model, x = make(pre_norm=pre_norm, packed=packed)
    found = model(x, LENGTHS)
    assert len(found) == 4
    for b, length in enumerate(LENGTHS):
        for ours, expected in zip(found, oracle(model, x[b, :length]), strict=True):
            torch.testing.assert_close(ours[b, :length], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_stopping_early(pre_norm):
    model, x = make(pre_norm=pre_norm)
    full = model(x, LENGTHS)
    for count in range(4):
        early = model(x, LENGTHS, num_layers=count)
        assert len(early) == count + 1
        for a, b in zip(early, full, strict=False):
            torch.testing.assert_close(a, b, atol=0, rtol=0)
    for count in (-1, 4):
        with pytest.raises(ValueError, match=f"num_layers {count}"):
            model(x, LENGTHS, num_layers=count)


def test_adapters_sit_before_the_residual():
    model, x = make(pre_norm=True)

    class Times(nn.Module):
        def forward(self, x, layout):
            return 0 * x

    for layer in model.layers:
        layer.attention_adapter, layer.ffn_adapter = Times(), Times()
    outputs = model(x, LENGTHS, num_layers=2)
    torch.testing.assert_close(outputs[2], outputs[0])


def test_layer_drop():
    model, x = make(layer_drop=0.4)
    model.dropout.p = 0.0
    for layer in model.layers:
        layer.dropout.p = layer.attention.dropout = 0.0
    model.train()
    dropped = torch.zeros(3)
    for _ in range(300):
        outputs = model(x, LENGTHS)
        dropped += torch.tensor([torch.equal(a, b) for a, b in pairwise(outputs)]).float()
    # 300 draws of probability 0.4: four standard errors are 0.11.
    assert (dropped / 300 - 0.4).abs().max() < 0.12
    model.eval()
    assert not any(torch.equal(a, b) for a, b in pairwise(model(x, LENGTHS)))


def test_dropped_layers_have_zero_gradients_not_none():
    model, x = make(layer_drop=1.0)
    model.train()(x, LENGTHS)[-1].square().sum().backward()
    for parameter in model.layers.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_dropout_follows_torchs_generator():
    model, x = make(layer_drop=0.5)
    model.train()
    first, second, third = (torch.manual_seed(seed) and model(x, LENGTHS)[-1] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_bert_start():
    model = Transformer(replace(SMALL, dim=128, ffn_dim=256))
    for name, parameter in model.layers.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" not in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_layer_drop_is_a_probability(share):
    with pytest.raises(ValueError, match=f"layer_drop {share} is not between 0 and 1"):
        Transformer(replace(SMALL, layer_drop=share))


def test_no_layers_is_an_error():
    with pytest.raises(ValueError, match="num_layers 0"):
        Transformer(replace(SMALL, num_layers=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pre_norm", [False, True])
def test_packed_flash_attention_equals_the_masked_one(pre_norm):
    results = []
    for packed in (True, False):
        model, x = make(pre_norm=pre_norm, packed=packed)
        model, x = model.cuda(), x.cuda()
        with torch.autocast("cuda", torch.bfloat16):
            y = model(x, LENGTHS.cuda())[-1].float()
        valid = torch.arange(9) < LENGTHS[:, None]
        y = y[valid.cuda()]
        y.square().sum().backward()
        results.append((y, model.layers[0].attention.qkv.weight.grad))
    # bfloat16 keeps 8 bits of each of some dozens of roundings on the way.
    torch.testing.assert_close(results[0][0], results[1][0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(results[0][1], results[1][1], atol=0.05, rtol=0.1)
