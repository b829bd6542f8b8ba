"""Splits and records: stratified, seeded, and never without how a number was chosen."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.linear_probe import Split
from audiossl.diagnostics.pooled_cache import PooledFeatures
from audiossl.diagnostics.probing import (
    Labelled,
    majority,
    of_fraction,
    parse_shares,
    split_one,
    splits_of,
    stratified,
    write_probe,
)


def labelled(name, labels, *, bad=()):
    features = np.arange(len(labels), dtype=np.float32)[:, None, None].repeat(2, axis=2)
    usable = np.array([index not in bad for index in range(len(labels))])
    manifest = SimpleNamespace(path=Path(name), ids=[f"{name}{index}" for index in range(len(labels))])
    return Labelled(manifest, PooledFeatures(Path(name), features, usable, 0), list(labels))


def test_stratified_gives_every_class_the_same_shares():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), (10, 20, 37, 100)))
    parts = stratified(labels, (0.7, 0.1, 0.2), seed=1)
    for label, size in enumerate((10, 20, 37, 100)):
        counts = np.bincount(parts[labels == label], minlength=3)
        assert counts.sum() == size
        np.testing.assert_allclose(counts, size * np.array([0.7, 0.1, 0.2]), atol=1)
    np.testing.assert_array_equal(parts, stratified(labels, (0.7, 0.1, 0.2), seed=1))
    assert (parts != stratified(labels, (0.7, 0.1, 0.2), seed=2)).any()


def test_split_one_leaves_out_bad_rows_and_names_classes():
    names = [str(label) for label in "ab" * 20]
    splits, classes = split_one(labelled("d", names, bad={0}), (0.5, 0.25, 0.25), seed=0, column="utt2x")
    assert classes == ("a", "b")
    rows = np.concatenate([part.rows for part in splits])
    assert sorted(rows.tolist()) == list(range(1, 40))
    for part in splits:
        assert [classes[label] for label in part.labels] == [names[row] for row in part.rows]


def test_a_class_too_small_to_split_is_named():
    with pytest.raises(ValueError, match=r"d/utt2x: class 'b' with 2 utterances leaves none for test"):
        split_one(labelled("d", "a" * 30 + "bb"), (0.7, 0.1, 0.2), seed=0, column="utt2x")


def test_fractions_are_nested_and_leave_no_class_out():
    ids = [f"u{index}" for index in range(100)]
    labels = np.repeat([0, 1, 2], (70, 26, 4))
    whole = Split(np.zeros((100, 1, 2), np.float32), np.arange(100)[::-1], labels[::-1])
    parts = [of_fraction(whole, ids, fraction, seed=0) for fraction in (0.01, 0.1, 0.5, 1.0)]
    sizes = [np.bincount(part.labels).tolist() for part in parts]
    assert sizes == [[1, 1, 1], [7, 3, 1], [35, 13, 2], [70, 26, 4]]
    for small, large in pairwise(parts):
        assert set(small.rows.tolist()) < set(large.rows.tolist())
    for part in parts:
        np.testing.assert_array_equal(part.labels, labels[part.rows])
    np.testing.assert_array_equal(parts[-1].rows, whole.rows)
    assert set(parts[1].rows.tolist()) != set(of_fraction(whole, ids, 0.1, seed=1).rows.tolist())


def test_splits_of_three_directories_share_the_classes_of_train():
    splits, classes = splits_of(labelled("tr", "abca"), labelled("de", "ca"), labelled("te", "bb"), "utt2x")
    assert classes == ("a", "b", "c")
    assert [part.labels.tolist() for part in splits] == [[0, 1, 2, 0], [2, 0], [1, 1]]
    with pytest.raises(ValueError, match=r"te/utt2x: te1 is of class 'z', which tr does not have; .*--split"):
        splits_of(labelled("tr", "abca"), labelled("de", "ca"), labelled("te", "bz"), "utt2x")
    with pytest.raises(ValueError, match="at least two"):
        splits_of(labelled("tr", "aa"), labelled("de", "a"), labelled("te", "a"), "utt2x")


@pytest.mark.parametrize("text", ["0.7/0.3", "a/b/c", "0.7/0.2/0.2", "1.0/0/0"])
def test_shares_that_are_none(text):
    with pytest.raises(ValueError, match=f"--split {text}"):
        parse_shares(text)


def test_shares():
    assert parse_shares("0.7/0.1/0.2") == (0.7, 0.1, 0.2)


def test_majority_is_what_the_commonest_class_of_train_scores_on_test():
    features = np.zeros((6, 1, 1), np.float32)
    parts = [Split(features, np.arange(len(y)), np.array(y)) for y in ([0, 1, 1], [0], [1, 0, 0, 0])]
    assert majority(parts) == 25.0


@pytest.mark.parametrize("lacking", ["learning_rate", "seeds", "selection"])
def test_a_probe_is_not_written_without_how_it_was_chosen(tmp_path, lacking):
    content = {"accuracy": 1.0, "learning_rate": 0.1, "seeds": [{"seed": 0}], "selection": "dev accuracy on d"}
    write_probe(tmp_path / "a" / "probe.json", content)
    assert json.loads((tmp_path / "a" / "probe.json").read_text()) == content
    with pytest.raises(ValueError, match=lacking):
        write_probe(tmp_path / "b" / "probe.json", {**content, lacking: None})
    assert not (tmp_path / "b").exists()
