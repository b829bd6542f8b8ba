"""Batches of heads, their score on dev, and the choice among them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.diagnostics.batched_heads import HeadGrid, HeadShape
from audiossl.diagnostics.head_training import Fitted, Group, Training, balanced, fit, outputs, score, shuffled
from audiossl.diagnostics.linear_probe import AsStored, Split

LAYERS, DIM = 2, 5
READ = AsStored(torch.float64, torch.device("cpu"))


def split(seed, count, classes=(4,)):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count + 3, LAYERS, DIM)).astype(np.float32)
    labels = np.stack([rng.integers(0, k, count) for k in classes], axis=1)
    return Split(features, rng.permutation(count + 3)[:count], labels)


def test_order_visits_everything_once_an_epoch():
    seen = np.concatenate(list(islice(shuffled(10, 4, seed=5), 15)))  # six epochs
    epochs = seen.reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    np.testing.assert_array_equal(next(shuffled(3, 8, seed=1)), next(shuffled(3, 8, seed=1)))
    assert next(shuffled(3, 8, seed=1)).shape == (8,)


def test_every_class_is_drawn_as_often_and_every_item_of_it():
    labels = np.array([2] * 60 + [0] * 30 + [5] * 3)  # class 1, 3 and 4 do not occur
    np.random.default_rng(0).shuffle(labels)
    drawn = np.concatenate(list(islice(balanced(labels, 32, seed=[0, 1]), 3000)))
    counts = np.bincount(drawn, minlength=len(labels))
    for label in (0, 2, 5):
        own = counts[labels == label]
        # 32,000 draws of each class: a standard deviation of 146, and of sqrt(32000 / items) for an item
        assert abs(own.sum() - 32_000) < 5 * 146
        assert np.abs(own - 32_000 / len(own)).max() < 5 * np.sqrt(32_000 / len(own))
    again = balanced(labels, 32, seed=[0, 1])
    np.testing.assert_array_equal(drawn[:32], next(again))
    assert not np.array_equal(drawn[:32], next(balanced(labels, 32, seed=[0, 2])))


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_numpy_for_own_and_shared_dev(weighted):
    shape = HeadShape(LAYERS, DIM, 3, (4, 2))
    grid = HeadGrid.start(shape, 2, (0, 1, 2), torch.float64, "cpu")
    grid.values.normal_(generator=torch.Generator().manual_seed(0))
    own, shared = (
        split(0, 700, shape.classes),
        split(1, 40, shape.classes),
    )  # more than are evaluated together, and fewer
    devs = [shared, own, shared]
    weights = [
        np.random.default_rng(k).random(len(dev.rows)) if weighted else None for k, dev in enumerate((shared, own))
    ]
    groups = [Group(own, dev, k, iter(()), weights[int(dev is own)]) for k, dev in enumerate(devs)]
    accuracy, loss = score(grid, groups, READ)
    for g, dev in enumerate(devs):
        x = torch.from_numpy(dev.features[dev.rows]).double()
        share = np.ones(len(dev.rows)) if not weighted else groups[g].dev_weights
        for r in range(2):
            parts = grid.logits(x[None])[r, g].split([4, 2], dim=1)
            right = np.stack([part.argmax(1).numpy() == dev.labels[:, k] for k, part in enumerate(parts)]).all(0)
            losses = sum(
                F.cross_entropy(part, torch.from_numpy(dev.labels[:, k]), reduction="none")
                for k, part in enumerate(parts)
            )
            assert float(accuracy[r, g]) == pytest.approx(100 * np.average(right, weights=share), abs=1e-9)
            assert float(loss[r, g]) == pytest.approx(np.average(losses, weights=share), abs=1e-9)


def test_outputs_come_in_order():
    shape = HeadShape(LAYERS, DIM, 0, (4,))
    grid, part = HeadGrid.start(shape, 1, (0,), torch.float64, "cpu"), split(0, 1200)
    predicted = torch.cat([row for row, _ in outputs(grid, part, READ)], dim=2)
    wanted = grid.logits(torch.from_numpy(part.features[part.rows]).double()[None]).argmax(-1)
    assert torch.equal(predicted[..., 0], wanted)


def test_groups_with_data_of_their_own_come_out_as_if_alone():
    shape, training = HeadShape(LAYERS, DIM, 3, (4,)), Training((1e-1, 1e-3), 30, 8, 10, clip_norm=1.0)
    parts = [(split(k, 50), split(10 + k, 20)) for k in range(2)]

    def groups(numbers):
        return [Group(*parts[k], k, shuffled(50, 8, [5, k])) for k in numbers]

    together = fit(groups((0, 1)), shape, training, read=READ, dtype=torch.float64)
    for k in range(2):
        alone = fit(groups((k,)), shape, training, read=READ, dtype=torch.float64)
        torch.testing.assert_close(together.heads.values[:, k], alone.heads.values[:, 0], rtol=0, atol=1e-9)
        assert torch.equal(together.steps[:, k], alone.steps[:, 0])
        assert torch.equal(together.accuracies[:, k], alone.accuracies[:, 0])


def test_a_head_that_diverges_spoils_no_other():
    shape, data = HeadShape(LAYERS, DIM, 3, (4,)), (split(0, 50), split(1, 20))

    def trained(rates):
        training = Training(rates, 20, 8, 5)
        return fit([Group(*data, 0, shuffled(50, 8, 0))], shape, training, read=READ, dtype=torch.float64)

    with_it, without = trained((1e300, 1e-2)), trained((1e-2,))
    assert not torch.isfinite(with_it.losses[0]).any()
    torch.testing.assert_close(with_it.heads.values[1], without.heads.values[0], rtol=0, atol=1e-9)
    assert with_it.choose((1e300, 1e-2), "x") == 1


def test_the_choice_is_by_accuracy_then_by_loss_in_the_mean_over_groups():
    heads = HeadGrid.start(HeadShape(1, 1, 0, (2,)), 3, (0, 1), torch.float64, "cpu")

    def chosen(accuracies, losses):
        rows = (torch.tensor(value, dtype=torch.float64) for value in (accuracies, losses))
        return Fitted(heads, torch.zeros(3, 2), *rows).choose((1.0, 2.0, 3.0), "x")

    assert chosen([[90, 10], [60, 60], [50, 50]], [[0, 0], [9, 9], [1, 1]]) == 1
    assert chosen([[60, 60], [60, 60], [50, 50]], [[2, 3], [2, 2], [1, 1]]) == 1
    nan = float("nan")
    with pytest.raises(ValueError, match="x: no learning rate of .* gives a finite loss"):
        chosen([[-1, -1]] * 3, [[nan, nan]] * 3)
