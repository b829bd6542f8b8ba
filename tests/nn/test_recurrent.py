"""BLSTM: the last valid frame is where the backward direction begins."""

from __future__ import annotations

import torch

from audiossl.nn.recurrent import BLSTM, _packed, _turned


def test_padding_has_no_influence_and_is_zero():
    torch.manual_seed(0)
    layer = BLSTM(3, 4, 2, dropout=0.3).eval()
    frames, lengths = torch.randn(3, 8, 3), torch.tensor([5, 7, 1])
    frames[0, 5:] = torch.nan
    hidden = layer(frames, lengths)
    assert hidden.shape == (3, 8, 8)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            hidden[row, :length], layer(frames[row : row + 1, :length], lengths[row : row + 1])[0]
        )
        assert not hidden[row, length:].any()


def test_dropout_is_behind_every_layer():
    torch.manual_seed(0)
    frames, lengths = torch.randn(1, 50, 3), torch.tensor([50])
    hidden = BLSTM(3, 40, 1, dropout=0.5).train()(frames, lengths)
    assert 0.4 < (hidden == 0).float().mean() < 0.6
    assert not torch.equal(*(BLSTM(3, 4, 2, dropout=0.0).train()(frames, lengths)[:, :, k] for k in (0, 1)))


def test_turning_equals_packing_and_so_do_the_gradients():
    torch.manual_seed(0)
    layers = BLSTM(3, 4, 2).double().layers
    frames, lengths = torch.randn(3, 8, 3, dtype=torch.float64), torch.tensor([5, 8, 1])
    found = []
    for way in (_packed, _turned):
        layers.zero_grad()
        inputs = frames.clone().requires_grad_()
        hidden = way(layers, inputs, lengths)
        hidden.square().sum().backward()
        found.append([hidden, inputs.grad, *(parameter.grad for parameter in layers.parameters())])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
