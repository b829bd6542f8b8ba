"""data2vec's convolutions: the block by a loop over taps, and the decoder and the positions, which padding must not change."""

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.conv_block import ConvBlock
from audiossl.nn.conv_decoder import ConvDecoder
from audiossl.nn.stacked_positions import StackedPositions

VALID = torch.arange(9) < torch.tensor([9, 4])[:, None]


def filled(seed=0, dim=8):
    return torch.randn(2, 9, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [4, 5])
def test_block_against_the_sum_over_taps(kernel):
    torch.manual_seed(0)
    block, x = ConvBlock(4, 6, kernel=kernel, groups=2), filled(dim=4)
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
    weight, bias = block.conv.weight, block.conv.bias
    expected = torch.zeros(2, 9, 6)
    for t in range(9):
        for out in range(6):
            group = slice(out // 3 * 2, out // 3 * 2 + 2)
            expected[:, t, out] = (weight[out].T * padded[:, t : t + kernel, group]).sum((1, 2)) + bias[out]
    centred = expected - expected.mean(2, keepdim=True)
    unit = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), F.gelu(unit), atol=1e-5, rtol=1e-4)


def test_decoder_adds_residuals_where_widths_agree():
    torch.manual_seed(0)
    decoder, x = ConvDecoder(8, 4, depth=3, kernel=3, groups=2), filled()[:1]
    first = decoder.blocks[0](x)
    second = first + decoder.blocks[1](first)
    third = second + decoder.blocks[2](second)
    torch.testing.assert_close(decoder(x, VALID[:1]), third)
    same = ConvDecoder(8, 8, depth=1, kernel=3, groups=2)
    torch.testing.assert_close(same(x, VALID[:1]), x + same.blocks[0](x))


@pytest.mark.parametrize("depth", [1, 3])
def test_padding_changes_nothing(depth):
    torch.manual_seed(0)
    x = filled()
    for module in (
        ConvDecoder(8, 8, depth=depth, kernel=5, groups=2),
        StackedPositions(8, depth=depth, kernel=5, groups=2),
    ):
        together = module(x.masked_fill(~VALID.unsqueeze(-1), 0.0), VALID)
        torch.testing.assert_close(together[1, :4], module(x[1:, :4], VALID[1:, :4])[0], atol=1e-5, rtol=1e-5)


def test_positions_are_blocks_in_a_row():
    torch.manual_seed(0)
    positions, x = StackedPositions(8, depth=2, kernel=3, groups=4), filled()
    torch.testing.assert_close(positions(x), positions.blocks[1](positions.blocks[0](x)))


def test_errors():
    with pytest.raises(ValueError, match="3 groups do not divide 8"):
        ConvBlock(8, 6, kernel=3, groups=3)
    with pytest.raises(ValueError, match="position_depth 0"):
        StackedPositions(8, depth=0, kernel=3, groups=2)
