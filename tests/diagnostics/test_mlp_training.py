"""Early stopping, halved rates and what is kept, on heads whose scores on dev are played back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.diagnostics.linear_probe import AsStored, Split
from audiossl.diagnostics.mlp_grid import MLPShape
from audiossl.diagnostics.mlp_training import MLPTraining, epoch_batches, fit_mlps, predictions

READ = AsStored(torch.float32, torch.device("cpu"))
SHAPE = MLPShape(2, 3, (6,), 2, batch_norm=True)


class Classes:
    def losses(self, outputs, labels):
        return torch.stack([F.cross_entropy(one, labels, reduction="none") for one in outputs])

    def headline(self, outputs, labels):
        return float(np.mean(outputs.argmax(1) == labels))


class Played(Classes):
    """Scores of one head, evaluation after evaluation."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def headline(self, outputs, labels):
        return next(self.scores)


def splits(count=40, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for size in (count, 20):
        labels = rng.integers(2, size=size)
        features = rng.normal(size=(size, 2, 3)).astype(np.float32) + labels[:, None, None]
        found.append(Split(features, np.arange(size), labels))
    return found


def training(**more):
    return MLPTraining(
        **{"batch": 8, "epochs": 30, "eval_every": 1, "patience": 5, "plateau": 0, "dropout": 0.2, **more}
    )


def fit(heads, settings, targets=None):
    train, dev = splits()
    return fit_mlps(train, dev, SHAPE, heads, settings, targets=targets or Classes(), read=READ, seed=3), dev


def test_a_head_is_the_same_in_any_company():
    heads = [(1e-2, "default"), (1e-3, "xavier_uniform"), (1e-1, "xavier_normal")]
    together, dev = fit(heads, training())
    assert together.scores.max() > 0.7
    for number, head in enumerate(heads):
        alone, _ = fit([head], training())
        assert (alone.scores[0], alone.epochs[0]) == (together.scores[number], together.epochs[number])
        assert alone.stopped[0] == together.stopped[number]
        torch.testing.assert_close(alone.heads.values[0], together.heads.values[number], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone.heads.running[0], together.heads.running[number], atol=1e-6, rtol=1e-5)
    scores = predictions(together.heads, dev, READ)
    for number in range(3):
        assert Classes().headline(scores[number].numpy(), dev.labels) == together.scores[number]
    assert len(set(together.stopped.tolist())) > 1  # or else nobody left the company


@pytest.mark.parametrize(
    ("scores", "patience", "every", "best", "stopped"),
    [
        ([1, 2, 2, 1, 3, 9], 2, 1, 2, 4),  # as good is not better
        ([1, 2, 2, 3, 0, 0, 9], 2, 1, 4, 6),
        ([1, 2, 2, 3, 0, 0, 9], 2, 3, 12, 18),
        ([5] + [0] * 9, 9, 1, 1, 10),
    ],
)
def test_patience_counts_evaluations(scores, patience, every, best, stopped):
    found, _ = fit([(1e-3, "default")], training(patience=patience, eval_every=every), Played(scores))
    assert (found.epochs[0], found.stopped[0]) == (best, stopped)
    assert found.scores[0] == max(scores[: stopped // every])


def test_the_last_epoch_is_evaluated():
    found, _ = fit([(1e-3, "default")], training(epochs=5, eval_every=3), Played([1, 2]))
    assert (found.epochs[0], found.stopped[0]) == (5, 5)


def test_a_plateau_halves_the_rate(monkeypatch):
    from audiossl.diagnostics import mlp_training

    rates = []
    step = mlp_training.Adam.step
    monkeypatch.setattr(
        mlp_training.Adam, "step", lambda self, *a: rates.append(float(self.rates[0])) or step(self, *a)
    )
    scores = [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    fit([(0.8, "default")], training(batch=40, epochs=12, patience=50, plateau=2), Played(scores))
    # More than two evaluations without a better one: after the 4th, the 8th and the 11th epoch.
    assert rates == pytest.approx([0.8] * 4 + [0.4] * 4 + [0.2] * 3 + [0.1])


def test_a_head_that_diverges_leaves():
    found, _ = fit([(1e-2, "default"), (1e38, "default")], training())
    assert found.scores[1] == -np.inf or np.isfinite(found.losses[1])
    assert found.stopped[1] == 1
    assert found.scores[0] > 0.7


def test_batches_hold_every_item_once():
    batches = list(epoch_batches(17, 8, (0, 1)))
    assert [len(batch) for batch in batches] == [8, 9]  # none of one item
    assert sorted(np.concatenate(batches)) == list(range(17))
    assert [len(batch) for batch in epoch_batches(18, 8, (0, 1))] == [8, 8, 2]
    assert [len(batch) for batch in epoch_batches(5, 8, (0, 1))] == [5]
    other = np.concatenate(list(epoch_batches(17, 8, (0, 2))))
    assert other.tolist() != np.concatenate(batches).tolist()
