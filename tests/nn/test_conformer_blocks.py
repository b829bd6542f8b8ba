"""Conformer blocks against the equations of the paper, written out for one utterance without padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from audiossl.nn.conformer import ConformerConfig, ConformerLayer
from audiossl.nn.transformer import Transformer

SMALL = ConformerConfig(
    num_layers=2, dim=16, ffn_dim=32, num_heads=2, position_kernel=6, position_groups=2, depthwise_kernel=5
)
LENGTHS = torch.tensor([9, 4, 7])
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def make(*, packed=None, **changes):
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, **changes), packed=packed, block=ConformerLayer)
    for module in model.modules():  # so that no scale or running statistic is one that does nothing
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval(), torch.randn(3, 9, 16)


def norm(layer, x):
    return (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, keepdim=True, correction=0) + 1e-5
    ).sqrt() * layer.weight + layer.bias


def swish(x):
    return x * x.sigmoid()


def block(layer, x):
    """x: (frame, dim)."""

    def ffn(part, x):
        return part.out(swish(part.into(x)))

    def attention(x):
        q, k, v = layer.attention.qkv(x).view(len(x), 3, 2, 8).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
        return layer.attention.out((weights @ v).transpose(0, 1).reshape(len(x), 16))

    def convolution(x):
        part = layer.convolution
        value, gate = part.gate(norm(part.norm, x)).chunk(2, dim=1)
        gated = value * gate.sigmoid()
        heard = torch.zeros_like(gated)
        for t in range(len(x)):
            for tap in range(5):
                if 0 <= t + tap - 2 < len(x):
                    heard[t] += gated[t + tap - 2] * part.depthwise.weight[:, 0, tap]
        heard = heard + part.depthwise.bias
        n = part.conv_norm
        if isinstance(n, nn.LayerNorm):
            heard = norm(n, heard)
        else:
            heard = (heard - n.running_mean) / (n.running_var + 1e-5).sqrt() * n.weight + n.bias
        return part.out(swish(heard))

    x = x + ffn(layer.first_ffn, norm(layer.first_norm, x)) / 2
    x = x + attention(norm(layer.attention_norm, x))
    x = x + convolution(x)
    return norm(layer.final_norm, x + ffn(layer.ffn, norm(layer.ffn_norm, x)) / 2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("conv_norm", ["layer", "batch"])
def test_each_layer_against_the_equations_whatever_the_padding(conv_norm, packed):
    model, x = make(conv_norm=conv_norm, packed=packed)
    found = model(x, LENGTHS)
    assert len(found) == 3
    for row, length in enumerate(LENGTHS):
        alone = x[row, :length]
        alone = norm(model.norm, alone + model.positions(alone[None])[0])
        for number, layer in enumerate(found):
            if number:
                alone = block(model.layers[number - 1], alone)
            torch.testing.assert_close(layer[row, :length], alone, rtol=1e-5, atol=1e-5)


def test_nothing_but_the_last_norm_lies_behind_the_feed_forward_networks():
    model, x = make()
    torch.stack(model.feed_forward_outputs(x, LENGTHS)).sum().backward()
    idle = {id(parameter) for parameter in model.parameters() if parameter.grad is None}
    assert idle == {id(parameter) for parameter in model.last_norm.parameters()}


def test_frames_that_are_left_out_are_silent_to_the_convolution():
    model, x = make(packed=False)
    layer = model.layers[0]
    visible = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    both = []
    for packed in (False, True):
        model.packed = packed
        frames, layout = model.enter(x[:2], torch.tensor([9, 4]), visible)
        both.append(layout.leave(layer(frames, layout))[visible])
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)


def test_batch_statistics_are_those_of_valid_frames():
    model, x = make(conv_norm="batch")
    part = model.layers[0].convolution.train()
    part.conv_norm.momentum, part.dropout.p = 1.0, 0.0
    seen = []
    part.conv_norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    frames, layout = model.eval().enter(x, LENGTHS)
    part.train()
    part(frames, layout)
    part(frames + 100 * ~(torch.arange(9) < LENGTHS[:, None]).unsqueeze(-1), layout)
    assert [len(s) for s in seen] == [int(LENGTHS.sum())] * 2
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(part.conv_norm.running_mean, seen[0].mean(0))


def test_adapters_come_before_the_residual():
    model, x = make()
    layer = model.layers[0]
    frames, layout = model.enter(x, torch.full((3,), 9))
    plain = layer(frames, layout)
    layer.attention_adapter, layer.ffn_adapter = (_Scale(0.0), _Scale(0.0))
    assert not torch.allclose(layer(frames, layout), plain)
    bare = frames + 0.5 * layer.first_ffn(layer.first_norm(frames))
    bare = bare + layer.convolution(bare, layout)
    torch.testing.assert_close(
        layer(frames, layout), F.layer_norm(bare, (16,), layer.final_norm.weight, layer.final_norm.bias)
    )


class _Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, layout):
        return x * self.factor


@pytest.mark.parametrize(
    ("change", "message"), [({"depthwise_kernel": 32}, "have no middle"), ({"pre_norm": True}, "pre_norm")]
)
def test_wrong_options(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)
