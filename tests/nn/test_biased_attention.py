from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.attention import FrameLayout
from audiossl.nn.biased_attention import LinearBias, LinearBiasAttention

LENGTHS = torch.tensor([7, 4])


def make():
    torch.manual_seed(0)
    bias = LinearBias(2).double()
    attention = LinearBiasAttention(6, 2, bias, owner=True).double().eval()
    with torch.no_grad():
        bias.scale.copy_(torch.tensor([1.7, 0.4]))
    return attention, torch.randn(2, 7, 6, dtype=torch.float64)


def oracle(attention, frames, times):
    """Frame by frame and head by head; times: of each frame."""
    query, key, value = (attention.qkv(frames)[:, i * 6 : (i + 1) * 6] for i in range(3))
    attended = torch.zeros_like(frames)
    for head, slope in enumerate((2**-4, 2**-8)):
        own, scale = slice(3 * head, 3 * head + 3), attention.bias.scale[head]
        for i in range(len(frames)):
            scores = [
                query[i, own] @ key[j, own] / math.sqrt(3) - scale * slope * abs(times[i] - times[j])
                for j in range(len(frames))
            ]
            attended[i, own] = torch.stack(scores).softmax(0) @ value[:, own]
    return attention.out(attended)


def test_attention_follows_the_definition():
    attention, x = make()
    found = attention(x, FrameLayout.of(LENGTHS, 7, packed=False))
    for b, length in enumerate(LENGTHS.tolist()):
        expected = oracle(attention, x[b, :length], range(length))
        torch.testing.assert_close(found[b, :length], expected, atol=1e-12, rtol=1e-12)


def test_gathered_frames_keep_their_distances():
    attention, x = make()
    visible = torch.tensor([[1, 0, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    layout = FrameLayout.of_visible(visible, packed=False)
    found = layout.leave(attention(layout.enter(x), layout))
    for b in range(2):
        times = visible[b].nonzero().flatten().tolist()
        expected = oracle(attention, x[b, visible[b]], times)
        torch.testing.assert_close(found[b, visible[b]], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (12, [2 ** -(h + 1) for h in range(8)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_slopes_are_the_published_series(heads, slopes):
    assert LinearBias(heads).slopes.tolist() == pytest.approx(slopes)


def test_a_negative_scale_counts_as_none():
    bias = LinearBias(2)
    with torch.no_grad():
        bias.scale[0] = -3.0
    assert not bias(5)[0].any()
    assert bias(5)[1].min() == -4 * 2**-8


def encoders():
    plain = replace(Wav2Vec2.Config.tiny(), dropout=0.0, layer_drop=0.0)
    made = []
    for alibi in (False, True):
        torch.manual_seed(0)
        made.append(Wav2Vec2(replace(plain, alibi=alibi)).eval())
    made[1].load_state_dict(made[0].state_dict(), strict=False)
    return made


def test_an_encoder_without_slopes_is_the_plain_one_and_shares_one_scale():
    plain, biased = encoders()
    wave, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5000])
    missing = set(biased.state_dict()) - set(plain.state_dict())
    assert missing == {"transformer.layers.0.attention.bias.scale"}
    differs = biased(wave, lengths).layers[-1] - plain(wave, lengths).layers[-1]
    assert differs[:, :15].abs().max() > 1e-3
    with torch.no_grad():
        biased.transformer.layers[0].attention.bias.scale.zero_()
    for ours, theirs in zip(biased(wave, lengths).layers, plain(wave, lengths).layers, strict=True):
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[1, :15], theirs[1, :15], atol=1e-5, rtol=1e-5)


def test_the_scale_learns_and_is_saved():
    _, biased = encoders()
    biased(torch.randn(1, 8000), torch.tensor([8000])).layers[-1].square().sum().backward()
    assert biased.transformer.layers[0].attention.bias.scale.grad.abs().min() > 0
    _, other = encoders()
    with torch.no_grad():
        other.transformer.layers[0].attention.bias.scale.fill_(0.3)
    biased.load_state_dict(other.state_dict())
    assert biased.transformer.layers[1].attention._bias[0].scale.tolist() == pytest.approx([0.3] * 4)


def test_relaxed_attention_has_no_bias():
    with pytest.raises(ValueError, match="attention_relax: 32.0 has no form with encoder.alibi"):
        Wav2Vec2(replace(Wav2Vec2.Config.tiny(), alibi=True, attention_relax=32.0))
