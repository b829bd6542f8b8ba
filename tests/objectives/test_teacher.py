"""What data2vec 2.0, DinoSR and SpidR promise alike: who learns, who follows, where it begins, and that a restart changes nothing."""

import copy
import pickle

import numpy as np
import pytest
import torch
from teacher_runs import added_by_layers, instance_norm, make_batch, objective, train

from audiossl.objectives.data2vec2 import Data2Vec2
from audiossl.objectives.dinosr import DinoSR
from audiossl.objectives.spidr import SpidR

each = pytest.mark.parametrize("cls", [Data2Vec2, DinoSR, SpidR])


def moved(module, before):
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@each
def test_everything_but_the_teacher_gets_a_gradient(cls):
    module = objective(cls).train()
    module(make_batch(module)).loss_sum.backward()
    for name, parameter in module.named_parameters():
        follows = name.startswith(("teacher.", "still.")) or (cls is Data2Vec2 and name == "encoder.mask_emb")
        follows |= cls is SpidR and name.startswith("encoder.transformer.layers.1.ffn_norm")
        assert parameter.requires_grad is not follows, name
        assert (parameter.grad is None) is follows, name
    assert any(p.grad.any() for p in module.encoder.frontend.parameters())


@each
def test_the_teacher_is_always_in_eval_mode(cls):
    module = objective(cls)
    for mode in (True, False):
        module.train(mode)
        assert module.encoder.training is mode
        assert not any(part.training for part in module.teacher.modules())


@each
def test_the_teacher_begins_with_the_weights_that_training_begins_with(cls):
    module, other = objective(cls), objective(cls, seed=1)
    module.encoder.load_state_dict(other.encoder.state_dict())  # as `--init` does, after it was built
    module(make_batch(module))
    theirs = other.encoder.transformer.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in module.teacher.state_dict().items())


@each
def test_the_teacher_is_a_moving_average(cls):
    module = objective(cls).train()
    module.begin()
    before = state(module.teacher)
    for parameter in module.encoder.parameters():
        parameter.data += 1.0
    module.after_step(1)
    decay = module.decay_after(1)
    assert 0.4 < decay < 0.8
    for name, value in module.teacher.named_parameters():
        copied = cls is not Data2Vec2 and name.startswith("positions")
        torch.testing.assert_close(value, before[name] + (1.0 if copied else 1 - decay), atol=1e-6, rtol=1e-5)


@each
def test_targets_are_normalised_outputs_of_feed_forward_networks(cls):
    module = objective(cls).eval()
    module.begin()
    for parameter in module.teacher.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    x, lengths = torch.randn(2, 9, 32), torch.tensor([9, 6])
    found = [*module.targets(x, lengths)]
    assert len(found) == 2
    for row, length in enumerate(lengths):
        for target, added in zip(found, added_by_layers(module.teacher, x[row, :length]), strict=True):
            np.testing.assert_allclose(target[row, :length], instance_norm(added), atol=1e-4)
            assert not target.requires_grad


@each
def test_fewer_layers_are_the_top_ones(cls):
    module = objective(cls, top_layers=1).eval()
    module.begin()
    x = torch.randn(1, 9, 32)
    (target,) = module.targets(x, torch.tensor([9]))
    np.testing.assert_allclose(target[0], instance_norm(added_by_layers(module.teacher, x[0])[-1]), atol=1e-4)


@each
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(cls):
    whole = objective(cls).train()
    optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=1e-3)
    train(whole, [1, 2], optimizer)
    resumed = objective(cls, seed=1).train()
    resumed.load_state_dict(whole.state_dict())
    again = torch.optim.AdamW([p for p in resumed.parameters() if p.requires_grad], lr=1e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # which otherwise both would share
    assert train(whole, [3, 4], optimizer) == train(resumed, [3, 4], again)
    assert moved(whole, resumed.state_dict()) == []


@each
def test_evaluation_changes_nothing_and_repeats(cls):
    module = objective(cls).train()
    train(module, [1])
    before, batch = state(module), make_batch(module)
    losses = [module.eval()(batch).loss_sum.item() for _ in range(2)]
    assert losses[0] == losses[1]
    assert moved(module, before) == []


@each
def test_views_are_light_to_send(cls):
    module = objective(cls)
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@each
def test_options_that_make_no_sense_are_refused(cls):
    with pytest.raises(ValueError, match="top_layers: 3 is more than the 2 of the encoder"):
        objective(cls, top_layers=3)
    for values, message in (
        ({"top_layers": 0}, "top_layers: 0"),
        ({"ema_start": 1.5}, "ema_start: 1.5 is not between"),
        ({"mask_length": 0}, "mask_length: 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cls.Config(**values)
