"""BYOL: its loss by a loop, the schedule of its teacher, and what of the teacher moves how."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.encoders.mhfa_speaker import MHFASpeaker
from audiossl.encoders.xvector import XVector
from audiossl.objectives._momentum import MomentumConfig, momentum_after
from audiossl.objectives.byol import BYOL

SAMPLES = 1600
SETTINGS = {"crop_duration": 0.1, "projector_dims": (7, 5), "predictor_dim": 6}


def objective(seed=0, **changes):
    torch.manual_seed(seed)
    return BYOL(XVector(XVector.Config.tiny()), BYOL.Config(**{**SETTINGS, **changes}))


def batch(size=4, seed=0):
    return {"waveform": torch.randn(size, 2 * SAMPLES, generator=torch.Generator().manual_seed(seed))}


def settle(module, waveform):
    """Give batch norms the statistics of some batch: with those of the start, all inputs look alike."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()({"waveform": waveform})
    for norm in norms:
        norm.momentum = 0.1


def cosine(a, b):
    return a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)


def test_loss_is_that_of_both_crops_predicting_the_other():
    module, data = objective(), batch()
    module.begin()
    for parameter in [*module.teacher.parameters(), *module.teacher_head.parameters()]:
        parameter += 0.2 * torch.randn(parameter.shape)
    settle(module, batch(32, seed=1)["waveform"])
    output = module.eval()(data)
    loss = 0.0
    with torch.no_grad():
        for row in data["waveform"]:
            crops = [(crop[None], torch.tensor([SAMPLES])) for crop in row.split(SAMPLES)]
            predictions = [module.predictor(module.head(module.encoder.embed(*crop)))[0] for crop in crops]
            targets = [module.teacher_head(module.teacher.embed(*crop))[0] for crop in crops]
            (q1, q2), (k1, k2) = ([x.double().numpy() for x in pair] for pair in (predictions, targets))
            loss += (2 - 2 * cosine(q1, k2)) + (2 - 2 * cosine(q2, k1))
    assert output.loss_sum.item() == pytest.approx(loss, rel=1e-5)
    assert output.count == 4


def test_only_what_is_followed_gets_a_gradient():
    module = objective()
    module(batch()).loss_sum.backward()
    for part in (module.encoder, module.head, module.predictor):
        assert all(p.grad is not None for p in part.parameters())
        assert any(p.grad.any() for p in part.parameters())
    for part in (module.teacher, module.teacher_head):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())


def test_momentum_grows_to_one_by_half_a_cosine():
    config = MomentumConfig(momentum=0.996, ema_steps=1000)
    values = [momentum_after(step, config) for step in range(1, 1200)]
    oracle = [1 - (1 - 0.996) * (math.cos(math.pi * k / 1000) + 1) / 2 for k in range(1001)]
    assert values[:1001] == pytest.approx(oracle, abs=1e-15)
    assert (values[0], values[500], values[1000]) == pytest.approx((0.996, 0.998, 1.0))
    assert set(values[1000:]) == {1.0}
    assert momentum_after(12345, MomentumConfig(momentum=0.9)) == 0.9


def test_target_network_is_a_moving_average_on_that_schedule():
    module = objective(momentum=0.5, ema_steps=4)
    module.begin()
    (follower, leader), *_ = zip(module.teacher_head.parameters(), module.head.parameters(), strict=True)
    expected = follower.double().numpy().copy()
    for step in range(1, 7):
        with torch.no_grad():
            leader += step
        module.after_step(step)
        share = 1 - 0.5 * (math.cos(math.pi * min(1, (step - 1) / 4)) + 1) / 2
        expected = share * expected + (1 - share) * leader.detach().double().numpy()
    np.testing.assert_allclose(follower.numpy(), expected, rtol=1e-5)


def test_batch_norms_of_the_target_network_keep_their_own_statistics():
    module = objective()
    module(batch())
    norms = [m for m in module.teacher.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    before = norms[0].running_mean.clone()
    for parameter in module.encoder.parameters():
        parameter.requires_grad_(False).fill_(3.0)
    module.encoder.apply(lambda m: m.running_mean.fill_(7.0) if isinstance(m, torch.nn.BatchNorm1d) else None)
    module.after_step(1)
    assert torch.equal(norms[0].running_mean, before)
    module(batch(seed=1))  # in training mode it follows its own outputs
    assert not torch.equal(norms[0].running_mean, before)
    module.eval()
    before = norms[0].running_mean.clone()
    module(batch(seed=2))
    assert torch.equal(norms[0].running_mean, before)


def test_target_network_begins_where_training_begins():
    module, other = objective(), objective(seed=1)
    module.encoder.load_state_dict(other.encoder.state_dict())  # as `--init` does, after it was built
    module(batch())
    for follower, leader in zip(module.teacher.parameters(), other.encoder.parameters(), strict=True):
        assert torch.equal(follower, leader)
    module.after_step(1)
    with torch.no_grad():
        next(module.encoder.parameters()).add_(1.0)
    resumed = objective(seed=2)
    resumed.load_state_dict(module.state_dict())
    resumed(batch())  # a resumed run must not begin again
    for follower, leader in zip(resumed.teacher.parameters(), other.encoder.parameters(), strict=True):
        assert torch.equal(follower, leader)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="momentum: 1.5 is not between"):
        BYOL.Config(momentum=1.5)
    with pytest.raises(ValueError, match="ema_steps: -1 is negative"):
        BYOL.Config(ema_steps=-1)
    with pytest.raises(ValueError, match="predictor_dim: 0"):
        BYOL.Config(predictor_dim=0)


@pytest.mark.parametrize("adapter", [{"name": "frozen"}, {"name": "full", "freeze_frontend": False}])
def test_the_target_network_is_in_training_mode_where_the_online_one_is(adapter):
    encoder = MHFASpeaker(replace(MHFASpeaker.Config.tiny(), adapter=adapter))
    module = BYOL(encoder, BYOL.Config(**SETTINGS)).train()
    for _ in range(2):
        modes = [part.training for part in module.encoder.modules()]
        assert [part.training for part in module.teacher.modules()] == modes
        assert any(modes)
        assert all(part.training for part in module.teacher_head.modules())
        module.eval()
        assert not any(part.training for part in module.modules())
        module.train()
