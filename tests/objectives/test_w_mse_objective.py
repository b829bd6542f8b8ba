"""W-MSE's objective is its loss on the projections of two crops, and batches too small for a group."""

import pytest
import torch
from two_crops import make, noise, projected

from audiossl.losses.w_mse import w_mse
from audiossl.objectives.w_mse import WMSE

SIZES = {"projector_dims": (10, 2), "group_size": 3, "shrinkage": 0.1}


def test_forward_is_the_loss_of_the_projections():
    module, batch = make(WMSE, **SIZES), noise()
    torch.manual_seed(5)
    output = module(batch)
    generator = torch.Generator().manual_seed(5)
    expected = w_mse(*projected(module, batch), generator=generator, group_size=3, shrinkage=0.1)
    assert output.loss_sum.item() == pytest.approx(6 * expected.item(), rel=1e-4)
    assert output.count == 6


def test_groups_are_drawn_by_the_generator_that_the_loop_seeds():
    module, batch = make(WMSE, **SIZES), noise(9)
    losses = set()
    for seed in (0, 0, 1, 2):
        torch.manual_seed(seed)
        losses.add(module(batch).loss_sum.item())
    assert len(losses) == 3


def test_a_batch_that_fills_no_group_trains_nothing():
    module = make(WMSE, **SIZES).train()
    output = module(noise(2))
    assert (output.loss_sum.item(), output.count.item()) == (0.0, 0.0)
    output.loss_sum.backward()
    assert all(not p.grad.any() for p in module.parameters())  # and none is missing
    assert output.metrics.keys() == module(noise(6)).metrics.keys()


def test_batches_that_never_fill_a_group_are_an_error():
    module = make(WMSE, **SIZES).train()
    module(noise(2)), module(noise(2)), module(noise(3)), module(noise(2)), module(noise(2))
    with pytest.raises(
        ValueError, match="3 batches in a row, the last of 2 utterances, do not fill a group of 3; raise"
    ):
        module(noise(2))


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="group_size: 3 rows cannot be whitened in 4 dimensions"):
        make(WMSE, projector_dims=(10, 4), group_size=3)
    with pytest.raises(ValueError, match="group_size: 8 rows cannot be whitened in 8 dimensions"):
        make(WMSE, projector_dims=(), group_size=8)
    with pytest.raises(ValueError, match=r"shrinkage: 1.0 is not in \[0, 1\)"):
        WMSE.Config(shrinkage=1.0)
