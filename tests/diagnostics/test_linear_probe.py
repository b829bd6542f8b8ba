"""Batched heads against each head trained alone by a plain loop, and the choice on dev."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.diagnostics.linear_probe import (
    Heads,
    ProbeConfig,
    Split,
    Standardiser,
    _fit,
    logits,
    sample_order,
    train_probe,
)

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
        weights = parameters["layer_logits"].softmax(0)
        x = sum(weights[k] * standardised[items, k] for k in range(LAYERS))
        if config.projector_dim:
            x = F.linear(x, parameters["projector_weight"].T, parameters["projector_bias"])
        x = F.linear(x, parameters["classifier_weight"].T, parameters["classifier_bias"])
        loss = F.cross_entropy(x, torch.from_numpy(train.labels[items]))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            value.data = value.data * (1 - rate * config.weight_decay) - rate * change
    return {name: value.detach() for name, value in parameters.items()}


@pytest.mark.parametrize("projector_dim", [0, 5])
def test_every_head_comes_out_as_if_trained_alone(projector_dim):
    config = ProbeConfig(
        learning_rates=(1e-1, 1e-2, 1e-3), seeds=(0, 7), steps=25, batch=16, weight_decay=0.1, projector_dim=projector_dim,
        eval_every=25,
    )  # fmt: skip
    train, dev = split(0, 50), split(1, 20)
    heads = Heads((LAYERS, DIM, CLASSES), config, torch.float64)
    start = {name: value.detach().clone() for name, value in heads.stacked().items()}
    standardise = Standardiser(train, torch.float64, CPU)
    trained, step, _, _ = _fit(heads, train, dev, standardise, config)
    x = train.features.astype(np.float64)
    standardised = torch.from_numpy((x - x.mean(axis=0)) / x.std(axis=0))
    for s, seed in enumerate(config.seeds):
        for k, rate in enumerate(config.learning_rates):
            order = sample_order(50, config.batch, seed)
            own = {name: value[s, k] for name, value in start.items()}
            alone = train_alone(own, rate, order, train, config, standardised)
            for name, value in alone.items():
                torch.testing.assert_close(trained[name][s, k], value, rtol=0, atol=1e-6)
                assert not torch.equal(value, start[name][s, k])
    assert (step == 25).all()


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
    standardise = Standardiser(train, torch.float32, CPU)
    best, _, accuracies, _ = _fit(Heads((LAYERS, DIM, CLASSES), config, torch.float32), train, dev, standardise, config)
    predicted = logits(best, standardise(dev.features)[None]).argmax(-1)[0, 0].numpy()
    assert float(accuracies[0, 0]) == pytest.approx(100 * np.mean(predicted == dev.labels))


def test_standardiser_equals_numpy_in_float64_and_leaves_constants():
    train = split(0, 2500)
    train.features[:, 0, 0] = 7.5
    train.features[:, 2, 1] += 1e4  # the variance of one pass would cancel
    x = train.features.astype(np.float64)
    std = np.where(x.std(axis=0) == 0, 1, x.std(axis=0))
    found = Standardiser(train, torch.float64, CPU)(train.features)
    np.testing.assert_allclose(found.numpy(), (x - x.mean(axis=0)) / std, atol=1e-9)


def test_order_visits_everything_once_an_epoch():
    seen = np.concatenate(list(islice(sample_order(10, 4, seed=5), 15)))  # six epochs
    epochs = seen.reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    np.testing.assert_array_equal(next(sample_order(3, 8, seed=1)), next(sample_order(3, 8, seed=1)))
    assert next(sample_order(3, 8, seed=1)).shape == (8,)


def test_a_split_reads_its_own_rows(tmp_path):
    whole = split(0, 20)
    np.save(tmp_path / "x.npy", whole.features)
    rows = np.array([17, 3, 5])
    part = Split(np.load(tmp_path / "x.npy", mmap_mode="r"), rows, whole.labels[rows])
    np.testing.assert_array_equal(part.gather(np.array([2, 0, 0])), whole.features[[5, 17, 17]])


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
