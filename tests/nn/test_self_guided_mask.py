import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossl.encoders.conformer import Conformer
from audiossl.encoders.fbank import FBank
from audiossl.encoders.mhubert import MHuBERT
from audiossl.nn.attention import FrameLayout, SelfAttention
from audiossl.nn.biased_attention import LinearBias, LinearBiasAttention
from audiossl.nn.self_guided_mask import attention_received, contiguity, most_of, self_guided_mask

LENGTHS = torch.tensor([7, 4])


def attention():
    torch.manual_seed(0)
    layer = SelfAttention(8, 2).double()
    nn.init.normal_(layer.qkv.weight)
    return layer, torch.randn(2, 7, 8, dtype=torch.float64)


def oracle(layer, x, length, bias=None):
    """Attention that each frame gets from all frames of one utterance, query by query and head by head."""
    q, k = (x[:length] @ layer.qkv.weight[i : i + 8].T + layer.qkv.bias[i : i + 8] for i in (0, 8))
    received = torch.zeros(length, dtype=torch.float64)
    for number, head in enumerate((slice(0, 4), slice(4, 8))):
        for query in range(length):
            scores = torch.stack([q[query, head] @ key[head] for key in k]) / math.sqrt(4)
            scores = scores if bias is None else scores + bias[number, query, :length]
            received += torch.softmax(scores, 0) / 2
    return received


def test_attention_received_by_each_frame():
    layer, x = attention()
    with torch.no_grad():
        received = attention_received(layer, x, LENGTHS, query_share=1.0)
    assert not received[1, 4:].any()
    for row, length in enumerate(LENGTHS.tolist()):
        expected = oracle(layer, x[row], length).float()
        torch.testing.assert_close(received[row, :length], expected, rtol=1e-5, atol=1e-5)


def test_a_bias_by_distance_counts():
    layer, x = attention()
    biased = LinearBiasAttention(8, 2, LinearBias(2), owner=True).double()
    biased.load_state_dict(layer.state_dict(), strict=False)
    layout = FrameLayout.of(LENGTHS, 7, packed=False)
    with torch.no_grad():
        biased.bias.scale.copy_(torch.tensor([20.0, 200.0]))
        bias = biased.bias_of(x, layout)
        received = attention_received(biased, x, LENGTHS, query_share=1.0, bias=bias)
        for row, length in enumerate(LENGTHS.tolist()):
            expected = oracle(layer, x[row], length, bias).float()
            torch.testing.assert_close(received[row, :length], expected, rtol=1e-5, atol=1e-5)
        plain = attention_received(biased, x, LENGTHS, query_share=1.0)
        assert (received - plain).abs().max() > 0.1


def test_a_share_of_the_queries_is_asked():
    layer, x = attention()
    totals, seen = set(), set()
    for seed in range(20):
        torch.manual_seed(seed)
        with torch.no_grad():
            received = attention_received(layer, x, LENGTHS, query_share=0.3)
        totals.add(tuple(round(float(total), 4) for total in received.sum(1)))
        seen.add(tuple(received[0].tolist()))
    assert totals == {(3.0, 2.0)}  # each of ceil(2.1) and ceil(1.2) queries gives away attention of 1
    assert len(seen) > 5


def test_the_most_attended_are_marked_exactly():
    scores = torch.tensor([[5.0, 1, 4, 2, 3, 0, 6], [1.0, 3, 2, 4, 99, 99, 99]])
    assert most_of(scores, LENGTHS, share=0.5).int().tolist() == [[1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0, 0]]
    assert most_of(scores, LENGTHS, share=1.0).sum(1).tolist() == [6, 3]
    assert most_of(torch.rand(1, 10), torch.tensor([10]), share=0.7).sum() == 7


@pytest.mark.parametrize("encoder_class", [FBank, Conformer])
def test_mask_of_an_encoder(encoder_class):
    torch.manual_seed(0)
    encoder = encoder_class(encoder_class.Config.tiny()).eval()
    lengths = torch.tensor([30, 18])
    z = torch.randn(2, 30, encoder.feature_dim, requires_grad=True)
    masked = self_guided_mask(encoder, z, lengths, mask_share=0.5, query_share=1.0)
    assert masked.sum(1).tolist() == [15, 9]
    assert not masked[1, 18:].any()
    assert not masked.requires_grad
    alone = self_guided_mask(encoder, z[1:, :18], lengths[1:], mask_share=0.5, query_share=1.0)
    assert torch.equal(masked[1:, :18], alone)
    assert not encoder.transformer.layers[0].attention._forward_pre_hooks


@pytest.mark.parametrize("encoder_class", [MHuBERT, FBank])
def test_the_encoder_is_asked_in_eval_mode_and_stays_as_it_is(encoder_class):
    torch.manual_seed(0)
    encoder = encoder_class(
        replace(encoder_class.Config.tiny(), dropout=0.5, dropout_input=0.5, layer_drop=1.0)
    ).train()
    encoder.transformer.layers[1].eval()
    modes = [module.training for module in encoder.modules()]
    buffers = [buffer.clone() for buffer in encoder.buffers()]
    lengths, z = torch.tensor([30, 18]), torch.randn(2, 30, encoder.feature_dim)
    first, second = (self_guided_mask(encoder, z, lengths, mask_share=0.5, query_share=1.0) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(now, before) for now, before in zip(encoder.buffers(), buffers, strict=True))
    assert [module.training for module in encoder.modules()] == modes


def ratio(masked, lengths):
    pairs, expected = contiguity(masked, lengths)
    return float(pairs / expected)


def test_contiguity_is_1_at_random_and_counts_pairs():
    torch.manual_seed(0)
    lengths = torch.tensor([50, 30]).repeat(500)
    random = most_of(torch.rand(1000, 50), lengths, share=0.5)
    assert ratio(random, lengths) == pytest.approx(1, abs=0.02)
    every_other = torch.arange(50).remainder(2).bool().repeat(2, 1)
    assert ratio(every_other, torch.tensor([50, 50])) == 0
    block = torch.arange(50).lt(10).unsqueeze(0)
    assert [float(x) for x in contiguity(block, torch.tensor([50]))] == pytest.approx([9, 10 * 9 / 50])
    assert contiguity(torch.zeros(1, 5, dtype=torch.bool), torch.tensor([5])) == (0, 0)


def test_chosen_masks_are_not_those_of_chance():
    """Where neighbouring frames are alike they are looked at alike, so that masks come in stretches."""
    torch.manual_seed(0)
    encoder = FBank(FBank.Config.tiny()).eval()
    nn.init.normal_(encoder.transformer.layers[0].attention.qkv.weight, std=0.5)
    lengths = torch.full((16,), 60)
    z = torch.randn(16, 6, encoder.feature_dim).repeat_interleave(10, dim=1)
    chosen = self_guided_mask(encoder, z, lengths, mask_share=0.5, query_share=1.0)
    random = most_of(torch.rand(16, 60), lengths, share=0.5)
    assert ratio(chosen, lengths) > 1.3 > 1.1 > ratio(random, lengths)


def test_an_encoder_without_attention_is_refused():
    encoder = FBank(FBank.Config.tiny())
    encoder.transformer.layers[0].attention = nn.Identity()
    with pytest.raises(ValueError, match="FBank: its first block has no attention"):
        self_guided_mask(
            encoder, torch.randn(1, 5, encoder.feature_dim), torch.tensor([5]), mask_share=0.5, query_share=1.0
        )


def keep_casts(monkeypatch):
    """As autocast does in older versions of torch: a weight is cast once, and stays without a graph if the first to need it had none."""
    kept, linear = {}, F.linear
    cast = lambda x, weight, bias=None: linear(x, kept.setdefault(weight, weight * 1.0), bias)  # noqa: E731
    monkeypatch.setattr(F, "linear", cast)
    monkeypatch.setattr(torch, "clear_autocast_cache", kept.clear)


def test_the_first_block_trains_where_autocast_keeps_what_it_cast(monkeypatch):
    torch.manual_seed(0)
    encoder = FBank(FBank.Config.tiny()).eval()
    lengths, z = torch.tensor([30, 18]), torch.randn(2, 30, encoder.feature_dim)
    keep_casts(monkeypatch)
    masked = self_guided_mask(encoder, z, lengths, mask_share=0.5, query_share=1.0)
    encoder.contextualise(z, lengths, masked=masked).layers[-1][..., 0].sum().backward()
    first = encoder.transformer.layers[0]
    for part in (encoder.projection, first.attention.qkv, first.ffn_in):
        assert part.weight.grad is not None
