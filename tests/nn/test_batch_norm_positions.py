from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.batch_norm_positions import BatchNormPositions


@pytest.mark.parametrize("training", [False, True])
def test_padding_is_neither_counted_nor_heard(training):
    torch.manual_seed(0)
    positions = BatchNormPositions(8, kernel=4, groups=2).train(training)
    with torch.no_grad():
        for tensor in (*positions.parameters(), positions.norm.running_mean, positions.norm.running_var):
            tensor.add_(torch.rand_like(tensor))
    x, valid = torch.randn(2, 9, 8), torch.arange(9) < torch.tensor([[9], [5]])
    frames = torch.cat([x[0], x[1, :5]])
    mean, variance = positions.norm.running_mean.clone(), positions.norm.running_var.clone()
    if training:
        mean, variance = frames.mean(0), frames.var(0, unbiased=False)
    found = positions(x.masked_fill(~valid.unsqueeze(-1), 0.0), valid)
    for row, count in enumerate((9, 5)):
        normed = (x[row, :count] - mean) / torch.sqrt(variance + 1e-5) * positions.norm.weight + positions.norm.bias
        expected = F.gelu(F.conv1d(normed.t()[None], positions.conv.weight, positions.conv.bias, padding=2, groups=2))
        torch.testing.assert_close(found[row, :count], expected[0, :, :count].t(), atol=1e-5, rtol=1e-5)


def test_without_padding_no_mask_is_needed():
    positions = BatchNormPositions(8, kernel=4, groups=2).eval()
    x = torch.randn(2, 9, 8)
    assert torch.equal(positions(x), positions(x, torch.ones(2, 9, dtype=torch.bool)))
