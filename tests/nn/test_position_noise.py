"""FlexPredict's noise: what it adds, and that the weights it goes through do not shrink away while visible frames need them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from audiossl.encoders.fbank import FBank
from audiossl.nn import mask_decoder
from audiossl.nn.mask_decoder import MaskDecoder
from audiossl.nn.position_noise import flexible_tokens
from audiossl.nn.transformer import TransformerConfig

SMALL = TransformerConfig(
    num_layers=1, dim=16, ffn_dim=32, num_heads=2, position_kernel=4, position_groups=4, dropout=0.0,
    attention_dropout=0.0, layer_drop=0.0, pre_norm=True,
)  # fmt: skip


def test_noise_has_the_covariance_of_its_weights():
    torch.manual_seed(0)
    weight, token = torch.randn(3, 5), torch.randn(3)
    found = flexible_tokens(token, weight, torch.zeros(40, 1000, 5), 0.25).flatten(0, 1)
    torch.testing.assert_close(found.mean(0), token, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(found.T), 0.25 * weight @ weight.T, atol=0.05, rtol=0.03)


def masked_frames(position_noise):
    """Input of an encoder's blocks, and its mask."""
    torch.manual_seed(0)
    encoder, seen = FBank(FBank.Config.tiny()).eval(), []
    encoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z, masked = torch.randn(2, 9, encoder.feature_dim), torch.rand(2, 9) < 0.5
    torch.manual_seed(1)
    encoder.contextualise(z, torch.tensor([9, 9]), masked=masked, position_noise=position_noise)
    return encoder, z, masked, seen[0]


def test_masked_frames_of_an_encoder_get_it_through_the_projection():
    encoder, z, masked, calm = masked_frames(0.0)
    _, _, _, noisy = masked_frames(4.0)
    torch.manual_seed(1)
    expected = encoder.mask_emb + 2.0 * torch.randn_like(z) @ encoder.projection.weight.T
    torch.testing.assert_close(noisy[masked], expected[masked], rtol=1e-5, atol=1e-5)
    assert torch.equal(noisy[~masked], calm[~masked])
    assert torch.equal(calm[masked], encoder.mask_emb.expand_as(calm[masked]))


def trained(monkeypatch, tied):
    """How much is left of the weights of the noise, where masked frames are to be filled with the mean of the visible ones."""
    torch.manual_seed(0)
    decoder, head = MaskDecoder(6, SMALL, position_noise=1.0), nn.Linear(16, 6)
    own = decoder.embed.weight if tied else nn.Parameter(decoder.embed.weight.detach().clone())
    monkeypatch.setattr(mask_decoder, "flexible_tokens", lambda m, _, *rest: flexible_tokens(m, own, *rest))
    start = own.detach().norm()
    optimizer = torch.optim.Adam([*decoder.parameters(), *head.parameters(), *([] if tied else [own])], lr=1e-2)
    for _ in range(300):
        common = torch.randn(16, 1, 6)
        frames, masked = common + 0.3 * torch.randn(16, 8, 6), torch.rand(16, 8) < 0.5
        masked[:, 0] = False
        estimate = head(decoder(frames, masked, torch.full((16,), 8)))
        loss = (estimate - common)[masked].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(own.detach().norm() / start)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_collapse_unless_visible_frames_share_them(monkeypatch, tied):
    left = trained(monkeypatch, tied)
    assert np.isfinite(left)
    assert left > 0.8 if tied else left < 0.4
