"""Speaker heads on layers against loops over heads, frames and layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracles import array, linear, softmax, unsettle

from audiossl.contracts import EncoderOutput
from audiossl.nn.mhfa import MHFA, EcapaHead

LENGTHS = [8, 3]


def layers():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8, 6, dtype=torch.float64, generator=generator) for _ in range(3)]


def make(cls, **sizes):
    torch.manual_seed(1)
    head = cls(6, 2, **sizes).double()
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            if key.endswith("logits"):
                parameter.normal_()
    return unsettle(head)


def mixture(stack, logits):
    return sum(w * layer for w, layer in zip(softmax(array(logits)), stack, strict=True))


def mhfa():
    return make(MHFA, num_heads=3, compression_dim=4, embedding_dim=5)


def test_mhfa():
    head, found_layers = mhfa(), layers()
    found = head(EncoderOutput(found_layers, torch.tensor(LENGTHS)))
    assert found.shape == (2, head.embedding_dim)
    for row, count in enumerate(LENGTHS):
        stack = [array(layer[row, :count]) for layer in found_layers]
        keys = mixture(stack, head.key_logits) @ array(head.key.weight).T
        values = linear(mixture(stack, head.value_logits), head.value)
        pooled = []
        for h in range(3):
            attention = softmax(np.array([key @ array(head.query.weight)[h] for key in keys]))
            pooled.extend(sum(a * value for a, value in zip(attention, values, strict=True)))
        np.testing.assert_allclose(array(found[row]), linear(np.array(pooled), head.embedding), atol=1e-10)


def test_mhfa_gradients():
    head, stack = mhfa(), [layer.requires_grad_() for layer in layers()]
    assert torch.autograd.gradcheck(lambda *x: head(EncoderOutput(list(x), torch.tensor(LENGTHS))), stack)
    head(EncoderOutput(stack, torch.tensor(LENGTHS))).square().sum().backward()
    assert [key for key, p in head.named_parameters() if not p.grad.any()] == []


def test_mhfa_starts_with_equal_layers():
    head = MHFA(6, 2)
    assert head.key_logits.softmax(0).tolist() == head.value_logits.softmax(0).tolist() == pytest.approx([1 / 3] * 3)
    assert head.query.weight.shape == (64, 128)


def test_ecapa_head():
    head, stack = make(EcapaHead, channels=16, pooled_dim=8, embedding_dim=5), layers()
    found = head(EncoderOutput(stack, torch.tensor(LENGTHS)))
    for row, count in enumerate(LENGTHS):
        x = mixture([array(layer[row, :count]) for layer in stack], head.layer_logits)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        features = torch.tensor(x)[None]
        expected = head.body.pool(head.body.frame_layers(features, torch.tensor([count])))
        np.testing.assert_allclose(array(found[row]), array(expected[0]), atol=1e-10)


@pytest.mark.parametrize(("cls", "sizes"), [(MHFA, {}), (EcapaHead, {"channels": 16, "pooled_dim": 8})])
def test_bfloat16_autocast_differs_by_rounding(cls, sizes):
    head = make(cls, **sizes).float()
    output = EncoderOutput([layer.float() for layer in layers()], torch.tensor(LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(output)
    # 8 bits of mantissa through a dozen layers
    assert torch.cosine_similarity(rounded.float(), head(output)).min() > 0.99


def test_another_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="zip"):
        mhfa()(EncoderOutput(layers()[:2], torch.tensor(LENGTHS)))
