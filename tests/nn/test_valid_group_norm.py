from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.valid_group_norm import ValidGroupNorm


@pytest.mark.parametrize("groups", [1, 3])
def test_statistics_are_those_of_each_utterance_alone(groups):
    torch.manual_seed(0)
    norm = ValidGroupNorm(6, groups).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, lengths = 3 + 2 * torch.randn(3, 11, 6, dtype=torch.float64), torch.tensor([11, 4, 1])
    found = norm(x, lengths)
    for row, length in enumerate(lengths):
        alone = F.group_norm(x[row : row + 1, :length].transpose(1, 2), groups, norm.weight, norm.bias).transpose(1, 2)
        torch.testing.assert_close(found[row, :length], alone[0], rtol=0, atol=1e-10)


def test_an_utterance_without_frames_is_finite():
    x = torch.randn(2, 3, 4, requires_grad=True)
    norm = ValidGroupNorm(4)(x, torch.tensor([3, 0]))
    norm[0].sum().backward()
    assert norm.isfinite().all()
    assert x.grad.isfinite().all()


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="6 channels do not split into 4 groups"):
        ValidGroupNorm(6, 4)
