"""Labels of every kind, their losses against NumPy, their scores against the metrics by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audiossl.metrics.area_under_curve import area_under_curve
from audiossl.metrics.average_precision import average_precision
from audiossl.tasks.attribute import Attribute


class Rows:
    """What a task asks of a data directory."""

    def __init__(self, columns):
        self.path, self._columns = Path("data/train"), columns
        self.ids = [f"u{row}" for row in range(len(next(iter(columns.values()))))]

    def __len__(self):
        return len(self.ids)

    def column(self, name):
        return self._columns[name]


def manifest(**columns):
    return Rows(columns)


def task(kind, values, metric="", columns=("utt2x",)):
    config = Attribute.Config(kind=kind, columns=columns, metric=metric)
    data = manifest(**values) if isinstance(values, dict) else manifest(utt2x=values)
    return Attribute.from_data(config, data), data


def logits(items, outputs, seed=0):
    return np.random.default_rng(seed).normal(size=(2, items, outputs)).astype(np.float32)


def test_classes():
    own, data = task("class", ["b", "a ", "c", "a"])
    labels = own.labels(data)
    assert own.names == ("a", "b", "c")
    assert labels.tolist() == [1, 0, 2, 0]
    scores = logits(4, 3)
    losses = own.losses(torch.from_numpy(scores), torch.from_numpy(labels))
    for head in range(2):
        for item in range(4):
            x = scores[head, item].astype(np.float64)
            wanted = np.log(np.exp(x).sum()) - x[labels[item]]
            assert losses[head, item].item() == pytest.approx(wanted, abs=1e-5)
    said = np.eye(3)[[1, 0, 2, 2]]
    assert own.scores(said, labels) == {
        "accuracy": 75.0,
        "unweighted_average_recall": pytest.approx(100 * (0.5 + 1 + 1) / 3),
    }
    assert (own.metric, own.headline(said, labels)) == ("accuracy", 75.0)


def test_curves_of_classes_compare_shares():
    own, data = task("class", ["b", "a", "b", "a", "b"], "roc_auc")
    labels, scores = own.labels(data), logits(5, 2)[0] + np.arange(5)[:, None] * 10
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    wanted = 100 * area_under_curve(shares, np.eye(2)[labels])
    assert own.headline(scores, labels) == pytest.approx(wanted)
    assert list(own.scores(scores, labels)) == ["roc_auc", "accuracy", "unweighted_average_recall"]
    assert own.check_scored(labels, "here") == []
    with pytest.raises(ValueError, match="here: of no label are there utterances with and without it, so that roc_auc"):
        own.check_scored(np.zeros(3, np.int64), "here")
    assert task("class", ["b", "a"])[0].check_scored(np.zeros(3, np.int64), "here") == []  # accuracy can


@pytest.mark.parametrize(("metric", "curve"), [("map", average_precision), ("roc_auc", area_under_curve)])
def test_curves_leave_out_classes_that_nothing_is_of(metric, curve):
    own, _ = task("class", ["a", "b", "c", "d"], metric)
    labels, scores = np.array([0, 2, 2, 0, 2]), logits(5, 4)[0]
    assert own.check_scored(labels, "here") == ["b", "d"]
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert own.headline(scores, labels) == pytest.approx(100 * curve(shares[:, [0, 2]], np.eye(4)[labels][:, [0, 2]]))


def test_pitches_an_octave_apart_share_their_chroma():
    own, data = task("pitch", ["60", "61", "72", "48"])
    labels = own.labels(data)
    said = np.eye(4)[[list(own.names).index(name) for name in ("60", "60", "60", "72")]]
    assert own.scores(said, labels) == {"accuracy": 25.0, "chroma_accuracy": 75.0}
    with pytest.raises(ValueError, match="'C4' is no pitch"):
        task("pitch", ["60", "C4"])


def test_keys():
    own, data = task("key", ["C_major", "G_major", "A_minor"])
    labels = own.labels(data)
    said = np.eye(3)[[list(own.names).index(name) for name in ("G_major", "G_major", "C_major")]]
    assert own.scores(said, labels) == {
        "weighted_key_score": pytest.approx(100 * (0.5 + 1 + 0.3) / 3),
        "accuracy": pytest.approx(100 / 3),
    }
    with pytest.raises(ValueError, match="train/utt2x: 'X' is no key"):
        task("key", ["C_major", "X"])


def test_tags():
    own, data = task("tags", ["rock guitar", "-", "guitar", "jazz"])
    labels = own.labels(data)
    assert own.names == ("guitar", "jazz", "rock")
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    scores = logits(4, 3)
    losses = own.losses(torch.from_numpy(scores), torch.from_numpy(labels))
    share = 1 / (1 + np.exp(-scores.astype(np.float64)))
    wanted = -(labels * np.log(share) + (1 - labels) * np.log(1 - share)).mean(axis=2)
    np.testing.assert_allclose(losses.numpy(), wanted, atol=1e-5)
    assert own.scores(scores[0], labels) == {
        "roc_auc": pytest.approx(100 * area_under_curve(scores[0], labels)),
        "map": pytest.approx(100 * average_precision(scores[0], labels)),
    }
    assert own.check_scored(labels[[0, 2]], "here") == ["guitar", "jazz"]
    assert own.scores(scores[0, :2], labels[[0, 2]])["map"] == pytest.approx(
        100 * average_precision(scores[0, :2, 2], labels[[0, 2], 2])
    )
    with pytest.raises(ValueError, match="so that roc_auc has nothing to score; give others"):
        own.check_scored(labels[[1, 1]], "here")


def test_a_number_of_labels_that_is_not_what_is_expected():
    data = manifest(utt2x=["no vocals", "new_age"])
    config = Attribute.Config(kind="tags", columns=("utt2x",), count=2)
    with pytest.raises(
        ValueError, match="train/utt2x: has 3 different labels, not 2; write each as one word, `no_vocals`"
    ):
        Attribute.from_data(config, data)
    data = manifest(utt2x=["no_vocals", "new_age"])
    assert Attribute.from_data(config, data).names == ("new_age", "no_vocals")


def test_numbers_are_standardised_by_training():
    own, _ = task("numbers", {"utt2x": ["1", "2"]})
    train, labels = np.array([[1.0, 7.0], [3.0, 7.0]], np.float32), np.array([[5.0, 8.0]], np.float32)
    np.testing.assert_allclose(own.targets(labels, train), [[3.0, 1.0]])
    own, _ = task("tags", ["a b"])
    assert own.targets(labels, train) is labels


def test_numbers():
    columns = {"utt2arousal": ["0.5", "1", "-2"], "utt2valence": ["1e2", "0", "50"]}
    own, data = task("numbers", columns, columns=tuple(columns))
    labels = own.labels(data)
    np.testing.assert_array_equal(labels, np.array([[0.5, 100], [1, 0], [-2, 50]], np.float32))
    scores = logits(3, 2)
    losses = own.losses(torch.from_numpy(scores), torch.from_numpy(labels))
    np.testing.assert_allclose(losses.numpy(), np.square(scores - labels).mean(axis=2), rtol=1e-5)
    found = own.scores(labels + np.array([[0, 50], [0, 0], [0, 0]]), labels)
    assert found == {"r2": pytest.approx(75.0), "r2_arousal": 100.0, "r2_valence": pytest.approx(50.0)}
    columns["utt2valence"][1] = "much"
    with pytest.raises(ValueError, match=r"train/utt2valence: u1 has 'much', which is no number"):
        own.labels(manifest(**columns))


def test_labels_that_training_does_not_have_are_named():
    for kind in ("class", "tags"):
        own, _ = task(kind, ["a", "b"])
        with pytest.raises(ValueError, match="u1 is labelled 'z', which training does not have"):
            own.labels(manifest(utt2x=["a", "z"]))
    with pytest.raises(ValueError, match="has 1 different labels"):
        task("class", ["a", "a"])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"columns": ()}, "task.columns"),
        ({"columns": ("a", "b")}, "give exactly one"),
        ({"metric": "r2"}, "'r2' is none of kind 'class'; use accuracy"),
        ({"kind": "tags", "metric": "accuracy"}, "use roc_auc, map"),
        ({"count": -1}, "task.count"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Attribute.Config(**wrong)
