from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from audiossl.nn.ctc_reading import greedy_tokens


@pytest.mark.parametrize("seed", range(5))
def test_repetitions_are_merged_before_blanks_are_dropped(seed):
    path = np.random.default_rng(seed).integers(0, 4, (3, 20))
    logits = torch.nn.functional.one_hot(torch.from_numpy(path), 4).float()
    lengths = [20, 7, 1]
    found = greedy_tokens(logits, torch.tensor(lengths))
    wanted = [[t for t, _ in itertools.groupby(row[:n].tolist()) if t] for row, n in zip(path, lengths, strict=True)]
    assert found == wanted


def test_a_blank_keeps_a_double_letter_apart():
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2]]), 3).float()
    assert greedy_tokens(logits, torch.tensor([6])) == [[1, 1, 2]]
    assert greedy_tokens(logits, torch.tensor([6]), blank=2) == [[1, 0, 1]]
