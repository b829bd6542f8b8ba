"""Batched heads against each head trained alone by a plain loop, and the choice on dev."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.diagnostics.batched_heads import HeadGrid, HeadShape
from audiossl.diagnostics.head_training import Group, Training, fit, shuffled
from audiossl.diagnostics.linear_probe import ProbeConfig, Split, Standardiser, train_probe

CLASSES, LAYERS, DIM = 4, 3, 6
CPU = torch.device("cpu")


def split(seed, count, *, noise=1.0):
    """Only layer 1 knows the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    features = rng.normal(3.0, 5.0, (count, LAYERS, DIM)).astype(np.float32)
    features[:, 1, :CLASSES] = 40 * np.eye(CLASSES)[labels] + 10 * noise * rng.normal(size=(count, CLASSES))
    return Split(features, np.arange(count), labels)


def train_alone(parameters, rate, order, train, config, standardised):
    """Adam as its paper writes it (Kingma and Ba, 2015, algorithm 1), with decoupled weight decay, for one head."""
    parameters = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for step, items in enumerate(islice(order, config.steps), start=1):
        weights = parameters["weighted.layer_logits"].softmax(0)
        x = sum(weights[k] * standardised[items, k] for k in range(LAYERS))
        if config.projector_dim:
            x = F.linear(x, parameters["projector.weight"], parameters["projector.bias"])
        x = F.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])
        loss = F.cross_entropy(x, torch.from_numpy(train.labels[items]))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            value.data = value.data * (1 - rate * config.weight_decay) - rate * change
    return {name: value.detach() for name, value in parameters.items()}


def fitted_by(config, shape, train, dev, dtype):
    groups = [Group(train, dev, seed, shuffled(len(train.rows), config.batch, seed)) for seed in config.seeds]
    training = Training(config.learning_rates, config.steps, config.batch, config.eval_every, config.weight_decay)
    return fit(groups, shape, training, read=Standardiser(train, dtype, CPU), dtype=dtype)


@pytest.mark.parametrize("projector_dim", [0, 5])
def test_every_head_comes_out_as_if_trained_alone(projector_dim):
    config = ProbeConfig(
        learning_rates=(1e-1, 1e-2, 1e-3), seeds=(0, 7), steps=25, batch=16, weight_decay=0.1, projector_dim=projector_dim,
        eval_every=25,
    )  # fmt: skip
    train, dev = split(0, 50), split(1, 20)
    shape = HeadShape(LAYERS, DIM, projector_dim, (CLASSES,))
    start = HeadGrid.start(shape, 3, config.seeds, torch.float64, CPU)
    fitted = fitted_by(config, shape, train, dev, torch.float64)
    x = train.features.astype(np.float64)
    standardised = torch.from_numpy((x - x.mean(axis=0)) / x.std(axis=0))
    for s, seed in enumerate(config.seeds):
        for k, rate in enumerate(config.learning_rates):
            order = shuffled(50, config.batch, seed)
            own = start.state(k, s)
            alone = train_alone(own, rate, order, train, config, standardised)
            for name, value in fitted.heads.state(k, s).items():
                torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-6)
                assert not torch.equal(value, own[name])
    assert (fitted.steps == 25).all()


def test_a_head_does_not_notice_the_others():
    config = ProbeConfig(learning_rates=(1e-2, 1e-3), seeds=(3, 4), steps=40, batch=8, eval_every=10)
    parts = [split(seed, 60, noise=2.0) for seed in range(3)]
    together = train_probe(*parts, num_classes=CLASSES, config=config, dtype=torch.float64)
    for seed in together.seeds:
        one = replace(config, learning_rates=(together.learning_rate,), seeds=(seed.seed,))
        alone = train_probe(*parts, num_classes=CLASSES, config=one, dtype=torch.float64)
        assert alone.seeds == (seed,)


def test_it_finds_the_layer_that_knows_and_counts_what_it_trained():
    config = ProbeConfig(learning_rates=(3e-2, 1e-2), seeds=(0, 1), steps=300, batch=32, eval_every=50)
    result = train_probe(split(0, 300), split(1, 100), split(2, 100), num_classes=CLASSES, config=config)
    assert result.accuracy > 95
    assert result.layer_weights.argmax() == 1
    assert result.layer_weights.sum() == pytest.approx(1)
    assert result.parameters == LAYERS + DIM * CLASSES + CLASSES
    assert result.confusion.sum() == 2 * 100
    assert np.trace(result.confusion) / 2 == pytest.approx(result.accuracy)
    assert result.accuracy == pytest.approx(np.mean([seed.test_accuracy for seed in result.seeds]))


def test_the_choice_looks_at_dev_alone():
    config = ProbeConfig(learning_rates=(1e-1, 1e-3), seeds=(0, 1), steps=60, batch=16, eval_every=20)
    train, dev, test = split(0, 80, noise=3.0), split(1, 60, noise=3.0), split(2, 60)
    shuffled = Split(test.features, test.rows, np.roll(test.labels, 1))
    one = train_probe(train, dev, test, num_classes=CLASSES, config=config)
    other = train_probe(train, dev, shuffled, num_classes=CLASSES, config=config)
    assert one.accuracy != other.accuracy
    assert one.learning_rate == other.learning_rate == max(one.dev_accuracies, key=one.dev_accuracies.get)
    assert [seed.step for seed in one.seeds] == [seed.step for seed in other.seeds]
    assert one.dev_accuracies == other.dev_accuracies


def test_dev_accuracy_is_that_of_the_chosen_step():
    config = ProbeConfig(learning_rates=(1e-2,), seeds=(0,), steps=60, batch=16, eval_every=20)
    train, dev = split(0, 80, noise=3.0), split(1, 60, noise=3.0)
    fitted = fitted_by(config, HeadShape(LAYERS, DIM, 0, (CLASSES,)), train, dev, torch.float32)
    x = Standardiser(train, torch.float32, CPU)(dev.features)
    predicted = fitted.heads.logits(x[None]).argmax(-1)[0, 0].numpy()
    assert float(fitted.accuracies[0, 0]) == pytest.approx(100 * np.mean(predicted == dev.labels))


def test_inputs_may_stay_as_they_are():
    config = ProbeConfig(learning_rates=(1e-2,), seeds=(0,), steps=30, batch=16, eval_every=30)
    parts = [split(seed, 80) for seed in range(3)]
    scaled = [Split(1000.0 * part.features, part.rows, part.labels) for part in parts]

    def shares(splits, standardise):
        chosen = replace(config, standardise=standardise)
        return train_probe(*splits, num_classes=CLASSES, config=chosen, dtype=torch.float64).layer_weights

    np.testing.assert_allclose(shares(parts, True), shares(scaled, True), atol=1e-5)
    assert np.abs(shares(parts, False) - shares(scaled, False)).max() > 1e-3
    assert np.abs(shares(parts, False) - shares(parts, True)).max() > 1e-3


def test_standardiser_equals_numpy_in_float64_and_leaves_constants():
    train = split(0, 2500)
    train.features[:, 0, 0] = 7.5
    train.features[:, 2, 1] += 1e4  # the variance of one pass would cancel
    x = train.features.astype(np.float64)
    std = np.where(x.std(axis=0) == 0, 1, x.std(axis=0))
    found = Standardiser(train, torch.float64, CPU)(train.features)
    np.testing.assert_allclose(found.numpy(), (x - x.mean(axis=0)) / std, atol=1e-9)


def test_a_split_reads_its_own_rows(tmp_path):
    whole = split(0, 20)
    np.save(tmp_path / "x.npy", whole.features)
    rows = np.array([17, 3, 5])
    part = Split(np.load(tmp_path / "x.npy", mmap_mode="r"), rows, whole.labels[rows])
    np.testing.assert_array_equal(part.gather(np.array([2, 0, 0])), whole.features[[5, 17, 17]])
    out = np.empty((1, LAYERS, DIM), np.float32)
    part.gather(np.array([1]), out=out)
    np.testing.assert_array_equal(out, whole.features[[3]])


@pytest.mark.parametrize("wrong", [{"learning_rates": ()}, {"learning_rates": (0.0,)}, {"seeds": (1, 1)}, {"steps": 0}])
def test_config_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="probe"):
        ProbeConfig(**wrong)


def test_no_finite_loss_is_an_error():
    train = split(0, 20)
    broken = Split(np.full_like(train.features, np.nan), train.rows, train.labels)
    config = ProbeConfig(learning_rates=(1e-2,), seeds=(0,), steps=2, batch=4)
    with pytest.raises(ValueError, match="finite loss"):
        train_probe(train, broken, train, num_classes=CLASSES, config=config)
