"""Schedules and optimisers against their definitions."""

import math

import pytest
import torch
from torch import nn

from audiossl.train.optim import OptimConfig, clip_each, learning_rate, make_optimizer, set_learning_rate, warm_up


def test_linear_warms_up_and_decays_to_zero():
    config = OptimConfig(peak_lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)


def test_cosine_is_half_way_at_the_middle():
    config = OptimConfig(peak_lr=2.0, schedule="cosine", final_lr_ratio=0.1)
    assert learning_rate(50, 100, config) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(100, 100, config) == pytest.approx(0.2)


def test_tri_stage_phases():
    config = OptimConfig(peak_lr=3e-5, schedule="tri_stage")
    assert learning_rate(0, 1000, config) == pytest.approx(3e-7)
    assert learning_rate(100, 1000, config) == pytest.approx(3e-5)
    assert learning_rate(499, 1000, config) == pytest.approx(3e-5)
    assert learning_rate(750, 1000, config) == pytest.approx(3e-5 * math.sqrt(0.05))
    assert learning_rate(1000, 1000, config) == pytest.approx(3e-5 * 0.05)


@pytest.mark.parametrize(
    ("config", "steps"), [(OptimConfig(warmup_steps=7), 7), (OptimConfig(schedule="tri_stage"), 50)]
)
def test_warm_up_ends_at_the_peak(config, steps):
    assert warm_up(500, config) == steps
    rates = [learning_rate(step, 500, config) for step in range(steps + 1)]
    assert rates[steps] == max(rates) > rates[0]


def test_step_multiplies_every_so_many_steps():
    config = OptimConfig(peak_lr=1e-3, schedule="step", decay_steps=20, warmup_steps=4)
    assert learning_rate(1, 1000, config) == pytest.approx(5e-4)
    assert learning_rate(19, 1000, config) == pytest.approx(1e-3)
    assert learning_rate(20, 1000, config) == pytest.approx(0.95e-3)
    assert learning_rate(999, 1000, config) == pytest.approx(1e-3 * 0.95**49)
    # The warm-up multiplies the rate that falls meanwhile: nothing jumps where it ends.
    slow = OptimConfig(peak_lr=1.0, schedule="step", decay_steps=10, decay_factor=0.5, warmup_steps=30)
    assert [learning_rate(step, 100, slow) for step in (0, 9, 10, 29, 30)] == pytest.approx(
        [1 / 30, 10 / 30, 0.5 * 11 / 30, 0.25, 0.125]
    )
    halved = OptimConfig(peak_lr=1.0, schedule="step", decay_steps=1, decay_factor=0.5)
    assert learning_rate(3, 10, halved) == pytest.approx(0.125)


def test_inverse_sqrt_is_noams_schedule():
    """Vaswani et al., eq. 3, scaled such that its largest value is the peak: n counts from 1."""
    config = OptimConfig(peak_lr=8e-4, schedule="inverse_sqrt", warmup_steps=400)
    wanted = [8e-4 * 400**0.5 * min(n**-0.5, n * 400**-1.5) for n in range(1, 2001)]
    assert [learning_rate(step, 2000, config) for step in range(2000)] == pytest.approx(wanted, rel=1e-12)
    assert max(wanted) == wanted[399] == pytest.approx(8e-4)
    assert learning_rate(1599, 10**6, config) == pytest.approx(4e-4)


def trained(config, gradients):
    """A weight of 1 after one step for each gradient; what does not train stays out."""
    weight, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = make_optimizer([weight, frozen], config)
    for gradient in gradients:
        weight.grad = torch.full((1,), gradient)
        optimizer.step()
    assert frozen.item() == 1
    return weight.item()


def test_sgd_has_momentum_and_decay():
    config = OptimConfig(optimizer="sgd", peak_lr=0.1, momentum=0.9, weight_decay=0.5)
    weight, velocity = 1.0, 0.0
    for gradient in (0.3, -0.2, 0.1):
        velocity = 0.9 * velocity + gradient + 0.5 * weight
        weight -= 0.1 * velocity
    assert trained(config, (0.3, -0.2, 0.1)) == pytest.approx(weight)


def test_adamw_decays_beside_its_moments():
    config = OptimConfig(peak_lr=0.1, betas=(0.8, 0.9), weight_decay=0.5, eps=1e-3)
    weight, mean, square = 1.0, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.2, 0.1), start=1):
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight *= 1 - 0.1 * 0.5
        weight -= 0.1 * mean / (1 - 0.8**step) / (math.sqrt(square / (1 - 0.9**step)) + 1e-3)
    assert trained(config, (0.3, -0.2, 0.1)) == pytest.approx(weight)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_vectors_keep_their_size_where_only_matrices_decay(optimizer):
    matrix, vector = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    config = OptimConfig(optimizer=optimizer, peak_lr=0.1, weight_decay=0.5, decay_vectors=False)
    matrix.grad, vector.grad = torch.zeros(1, 1), torch.zeros(1)
    make_optimizer([matrix, vector], config).step()
    assert (matrix.item(), vector.item()) == (pytest.approx(0.95), 1.0)


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_some_parameters_keep_the_peak_rate(decay_vectors):
    matrix, vector, kept, short = (nn.Parameter(torch.ones(shape)) for shape in ((1, 1), (1,), (1, 1), (1,)))
    config = OptimConfig(optimizer="sgd", peak_lr=0.5, weight_decay=0.1, decay_vectors=decay_vectors)
    optimizer = make_optimizer([matrix, vector, kept, short], config, constant=[kept, short])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    set_learning_rate(optimizer, 0.1, config)
    for parameter in (matrix, vector, kept, short):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    pull = 0.1 if decay_vectors else 0.0
    wanted = (1 - 0.1 * 1.1, 1 - 0.1 * (1 + pull), 1 - 0.5 * 1.1, 1 - 0.5 * (1 + pull))
    assert [p.item() for p in (matrix, vector, kept, short)] == pytest.approx(list(wanted))
    for group in optimizer.param_groups:  # a state from before there were such groups
        group.pop("constant_lr")
    set_learning_rate(optimizer, 0.2, config)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2}


def test_each_gradient_is_clipped_by_itself():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[0.3], [0.4]]), torch.zeros(2)]
    norm = clip_each(gradients, 1.0)
    assert norm == pytest.approx(math.sqrt(25 + 0.25))
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.3], [0.4]]), rtol=0, atol=0)
    assert not gradients[2].any()
    assert math.isnan(clip_each([torch.tensor([math.nan]), torch.ones(1)], 1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "tri_stage", "warmup_steps": 5}, "has its own warm-up"),
        ({"schedule": "tri_stage", "tri_stage": (0.1, 0.1, 0.1)}, "does not sum to 1"),
        ({"peak_lr": 0.0}, "is not positive"),
        ({"peak_lr": math.nan}, "optim.peak_lr: nan is not positive, or no number; give one such as 5e-4"),
        ({"peak_lr": math.inf}, "optim.peak_lr: inf is"),
        ({"weight_decay": math.nan}, "optim.weight_decay: nan is negative, or no number; give 0 or more"),
        ({"warmup_steps": -5}, "warmup_steps: -5 is negative"),
        ({"weight_decay": -0.01}, "weight_decay: -0.01 is negative"),
        ({"momentum": 0.9}, "momentum: 0.9 is for optimizer = 'sgd'"),
        ({"optimizer": "sgd", "betas": (0.9, 0.999)}, "betas: .* is for optimizer = 'adamw'"),
        ({"decay_steps": 10}, "decay_steps: 10 is for schedule = 'step'"),
        ({"tri_stage": (0.2, 0.3, 0.5)}, r"tri_stage: .* is for schedule = 'tri_stage'"),
        ({"schedule": "constant", "final_lr_ratio": 0.1}, "final_lr_ratio: 0.1 is for schedule = 'linear' or 'cosine'"),
        (
            {"schedule": "inverse_sqrt"},
            "warmup_steps: 0 is no step for the inverse_sqrt schedule to fall from; give at",
        ),
        ({"schedule": "inverse_sqrt", "warmup_steps": 5, "final_lr_ratio": 0.1}, "final_lr_ratio: 0.1 is for schedule"),
        ({"schedule": "step"}, "decay_steps 0 must be positive"),
        ({"schedule": "step", "decay_steps": 5, "decay_factor": 2.0}, "decay_factor 2.0 in"),
    ],
)
def test_contradictions_are_errors(values, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)
