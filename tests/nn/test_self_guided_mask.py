import math

import pytest
import torch
from torch import nn

from audiossl.encoders.conformer import Conformer
from audiossl.encoders.fbank import FBank
from audiossl.nn.attention import SelfAttention
from audiossl.nn.self_guided_mask import attention_received, most_of, self_guided_mask

LENGTHS = torch.tensor([7, 4])


def attention():
    torch.manual_seed(0)
    layer = SelfAttention(8, 2).double()
    nn.init.normal_(layer.qkv.weight)
    return layer, torch.randn(2, 7, 8, dtype=torch.float64)


def oracle(layer, x, length):
    """Attention that each frame gets from all frames of one utterance, query by query and head by head."""
    q, k = (x[:length] @ layer.qkv.weight[i : i + 8].T + layer.qkv.bias[i : i + 8] for i in (0, 8))
    received = torch.zeros(length, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        for query in range(length):
            scores = torch.stack([q[query, head] @ key[head] for key in k]) / math.sqrt(4)
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


def test_an_encoder_without_attention_is_refused():
    encoder = FBank(FBank.Config.tiny())
    encoder.transformer.layers[0].attention = nn.Identity()
    with pytest.raises(ValueError, match="FBank: its first block has no attention"):
        self_guided_mask(
            encoder, torch.randn(1, 5, encoder.feature_dim), torch.tensor([5]), mask_share=0.5, query_share=1.0
        )
