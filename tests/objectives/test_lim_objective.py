"""LIM's objective is its loss on the representations of two crops and of another utterance's."""

import numpy as np
import pytest
import torch
from two_crops import make, mean_of, noise, represented, unit

from audiossl.objectives.lim import LIM


def drawn(module, batch):
    """Cosines with the own second crop and with that of another utterance, drawn as the loop's seed says."""
    first, second = (unit(view) for view in represented(module, batch))
    step = torch.randint(1, len(first), (len(first),), generator=torch.Generator().manual_seed(3)).numpy()
    other = second[(np.arange(len(first)) + step) % len(first)]
    return np.sum(first * second, axis=1), np.sum(first * other, axis=1)


@pytest.mark.parametrize("bound", ["bce", "mine", "nce"])
def test_forward_is_the_loss_of_the_representations(bound):
    module, batch = make(LIM, bound=bound), noise()
    positive, negative = drawn(module, batch)
    expected = {
        "bce": np.mean(np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))),
        "mine": -np.mean(positive) + np.log(np.mean(np.exp(negative))),
        "nce": -np.mean(positive - np.log(np.exp(positive) + np.exp(negative).sum())),
    }[bound]
    torch.manual_seed(3)
    output = module(batch)
    assert output.loss_sum.item() == pytest.approx(6 * expected, rel=1e-4)
    assert output.count == 6
    assert mean_of(output, "accuracy") == pytest.approx(np.mean(positive > negative))
    assert mean_of(output, "positive_cosine") == pytest.approx(positive.mean(), abs=1e-5)
