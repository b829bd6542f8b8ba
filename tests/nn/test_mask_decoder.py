import math

import numpy as np
import torch

from audiossl.nn.mask_decoder import MaskDecoder, sinusoids
from audiossl.nn.transformer import TransformerConfig

CONFIG = TransformerConfig(
    num_layers=1, dim=16, ffn_dim=32, num_heads=2, position_kernel=4, position_groups=4, dropout=0.0,
    attention_dropout=0.0, layer_drop=0.0, pre_norm=True,
)  # fmt: skip
LENGTHS = torch.tensor([6, 6])


def make(position_noise):
    torch.manual_seed(0)
    decoder = MaskDecoder(10, CONFIG, position_noise=position_noise)
    encoded = torch.randn(2, 6, 10)
    masked = torch.zeros(2, 6, dtype=torch.bool)
    masked[0, 1:3] = masked[1, 4:] = True
    return decoder, encoded, masked


def entered(decoder, encoded, masked):
    """What the decoder's Transformer is given."""
    seen = []
    handle = decoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder(encoded, masked, LENGTHS)
    handle.remove()
    return seen[0]


def test_tokens_and_positions():
    decoder, encoded, masked = make(0.0)
    x = entered(decoder, encoded, masked)
    for b, t in np.ndindex(2, 6):
        position = torch.tensor(
            [math.sin(t * 10000 ** (-i / 8)) for i in range(8)] + [math.cos(t * 10000 ** (-i / 8)) for i in range(8)]
        )
        own = decoder.mask_token if masked[b, t] else decoder.embed.weight @ encoded[b, t] + decoder.embed.bias
        torch.testing.assert_close(x[b, t], own + position, rtol=1e-5, atol=1e-5)
    assert sinusoids(6, 16, encoded.device).shape == (6, 16)


def test_what_is_masked_is_never_read():
    decoder, encoded, masked = make(0.0)
    other = torch.where(masked.unsqueeze(-1), 1e3, encoded)
    assert torch.equal(decoder(encoded, masked, LENGTHS), decoder(other, masked, LENGTHS))


def test_noise_goes_through_the_embedding_and_to_masked_frames_alone():
    plain, encoded, masked = make(0.0)
    noisy, _, _ = make(4.0)
    calm = entered(plain, encoded, masked)
    torch.manual_seed(1)
    difference = entered(noisy, encoded, masked) - calm
    assert not difference[~masked].any()
    torch.manual_seed(1)
    expected = 2.0 * torch.randn_like(encoded) @ noisy.embed.weight.T  # variance 4
    torch.testing.assert_close(difference[masked], expected[masked], rtol=1e-4, atol=1e-5)


def test_without_noise_or_in_evaluation_it_is_the_plain_decoder_bit_for_bit():
    plain, encoded, masked = make(0.0)
    noisy, _, _ = make(4.0)
    expected = plain(encoded, masked, LENGTHS)
    assert torch.equal(noisy.eval()(encoded, masked, LENGTHS), expected)
    assert not torch.equal(noisy.train()(encoded, masked, LENGTHS), expected)
