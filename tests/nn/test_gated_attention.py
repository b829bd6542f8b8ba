from __future__ import annotations

import math

import torch

from audiossl.nn.attention import FrameLayout
from audiossl.nn.gated_attention import GatedAttention, RelativeBias


def naive_bucket(distance, num_buckets, max_distance):
    """T5's rule for one distance, both directions."""
    half = num_buckets // 2
    exact = half // 2
    side = half if distance > 0 else 0
    length = abs(distance)
    if length < exact:
        return side + length
    far = exact + int(math.log(length / exact) / math.log(max_distance / exact) * (half - exact) + 1e-6)
    return side + min(far, half - 1)


def test_buckets_follow_the_rule():
    bias = RelativeBias(2, num_buckets=32, max_distance=100)
    distances = torch.arange(-300, 301)
    expected = [naive_bucket(int(d), 32, 100) for d in distances]
    assert bias.bucket(distances).tolist() == expected
    assert set(expected) == set(range(32)) - {16}  # distance 0 is not after the query


def test_attention_follows_the_definition():
    torch.manual_seed(0)
    bias = RelativeBias(2, num_buckets=8, max_distance=6).double()
    attention = GatedAttention(6, 2, bias, owner=True).double().eval()
    with torch.no_grad():
        bias.weight.normal_()
        attention.gate_scale.normal_()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    lengths = torch.tensor([7, 4])
    found = attention(x, FrameLayout.of(lengths, 7, packed=False))
    for b in range(2):
        frames = x[b, : lengths[b]]
        query, key, value = (attention.qkv(frames)[:, i * 6 : (i + 1) * 6] for i in range(3))
        attended = torch.zeros_like(frames)
        for head in range(2):
            own = slice(3 * head, 3 * head + 3)
            for i in range(len(frames)):
                eight = attention.gate(frames[i, own])
                update, reset = torch.sigmoid(eight[:4].sum()), torch.sigmoid(eight[4:].sum())
                gate = update * (reset * attention.gate_scale[0, head, 0, 0] - 1) + 2
                scores = torch.stack([
                    query[i, own] @ key[j, own] / math.sqrt(3) + gate * bias.weight[naive_bucket(j - i, 8, 6), head]
                    for j in range(len(frames))
                ])  # fmt: skip
                attended[i, own] = scores.softmax(0) @ value[:, own]
        torch.testing.assert_close(found[b, : lengths[b]], attention.out(attended), atol=1e-12, rtol=1e-12)


def test_the_bias_is_in_one_layer_only():
    bias = RelativeBias(2, num_buckets=8, max_distance=6)
    owner, other = (GatedAttention(6, 2, bias, owner=owner) for owner in (True, False))
    assert owner.state_dict().keys() - other.state_dict().keys() == {"bias.weight"}
    other(torch.randn(1, 5, 6), FrameLayout(1, 5)).sum().backward()
    assert bias.weight.grad.any()


def test_gathered_frames_keep_their_distances():
    torch.manual_seed(0)
    bias = RelativeBias(2, num_buckets=16, max_distance=8).double()
    attention = GatedAttention(6, 2, bias, owner=True).double().eval()
    torch.nn.init.normal_(bias.weight, std=3.0)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    visible = torch.tensor([[1, 0, 0, 1, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 1, 0, 0]], dtype=torch.bool)
    gathered = FrameLayout.of_visible(visible, packed=False)
    found = gathered.leave(attention(gathered.enter(x), gathered))[visible]
    # The same as to leave all frames where they are and to look at the visible ones only.
    expected = attention(x, FrameLayout(2, 9, key_mask=visible[:, None, None]))[visible]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
