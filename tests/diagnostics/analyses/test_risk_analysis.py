"""Risk decomposition: its parts add up, and each grows with what it is named after."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.analyses.risk import Config, Risks, _few, _joined, decompose
from audiossl.diagnostics.linear_probe import ProbeConfig, Split

CLASSES = 4
SUBJECT = SimpleNamespace(
    probe=ProbeConfig(learning_rates=(3e-2,), seeds=(0,), steps=150, batch=64, eval_every=25), device="cpu"
)


def splits(*, dim=16, leak=False, seed=0):
    """Train, dev, held-out, unseen: noisy classes in `dim` dimensions. leak: the encoder learned its own data's labels by heart."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((CLASSES, 16))
    sizes = (160, 60, 100, 120)
    labels = rng.integers(0, CLASSES, sum(sizes))
    features = centres[labels] + 1.2 * rng.standard_normal((len(labels), 16))
    if leak:
        features[: -sizes[3], 0] = 8.0 * (labels[: -sizes[3]] % 2)
        features[: -sizes[3], 1] = 8.0 * (labels[: -sizes[3]] // 2)
    features = features[:, None, :dim].astype(np.float32)
    rows = np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])
    return [Split(features, part, labels[part]) for part in rows]


def test_components_add_up_to_the_error_on_unseen_data():
    risks = decompose(SUBJECT, splits(), CLASSES)
    parts = risks.components()
    assert list(parts) == ["usability", "probe generalisation", "encoder generalisation"]
    assert sum(parts.values()) == pytest.approx(risks.unseen, abs=1e-12)
    assert 0 <= risks.fitted <= risks.held_out <= 60
    exact = Risks(25.0, 31.25, 40.5)
    assert sum(exact.components().values()) == exact.unseen


def test_features_of_few_dimensions_are_less_usable():
    assert decompose(SUBJECT, splits(dim=1), CLASSES).fitted > decompose(SUBJECT, splits(), CLASSES).fitted + 10


def test_an_overfitted_encoder_does_not_generalise():
    overfitted = decompose(SUBJECT, splits(leak=True), CLASSES).components()["encoder generalisation"]
    assert overfitted > decompose(SUBJECT, splits(), CLASSES).components()["encoder generalisation"] + 10


def test_few_labels_cost_the_probe_its_generalisation():
    parts = splits()
    few = _few(parts[0], 2, seed=0)
    assert np.bincount(few.labels).tolist() == [2] * CLASSES
    assert set(few.rows) <= set(parts[0].rows)
    whole = decompose(SUBJECT, parts, CLASSES)
    with_few = decompose(SUBJECT, parts, CLASSES, few=few, fitted=whole.fitted)
    assert with_few.fitted == whole.fitted
    assert with_few.components()["probe generalisation"] > whole.components()["probe generalisation"] + 3
    assert sum(with_few.components().values()) == pytest.approx(with_few.unseen, abs=1e-12)


def test_joined_splits_keep_rows_and_labels():
    parts = splits()
    joined = _joined(*parts[:3])
    assert len(joined.rows) == 320
    np.testing.assert_array_equal(joined.labels, np.concatenate([part.labels for part in parts[:3]]))
    with pytest.raises(ValueError, match=r"risk\.shots is -1"):
        Config(shots=-1)
