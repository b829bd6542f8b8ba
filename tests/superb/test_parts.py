"""Groups that no fold divides, and folds with the same share of every class."""

from __future__ import annotations

import numpy as np
import pytest
from tones import write_tones

from audiossl.data.manifest import Manifest
from audiossl.superb.parts import grouped_parts, groups_of, numbered_folds


def test_groups_stay_together_and_classes_are_spread():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = rng.permutation(np.arange(60) % 4)[groups]  # each group of one class
    parts = grouped_parts(groups, labels, 5, 0)
    assert all(len(set(parts[groups == group])) == 1 for group in range(60))
    for label in range(4):
        counts = np.bincount(parts[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 8
        assert counts.min() > 0
    assert np.array_equal(parts, grouped_parts(groups, labels, 5, 0))
    assert not np.array_equal(parts, grouped_parts(groups, labels, 5, 1))


def test_single_utterances_are_dealt_evenly():
    labels = np.array([0] * 20 + [1] * 10)
    parts = grouped_parts(np.arange(30), labels, 5, 0)
    assert [np.bincount(parts[labels == label], minlength=5).tolist() for label in (0, 1)] == [[4] * 5, [2] * 5]


def test_groups_of_a_directory(tmp_path):
    rows = [((0,), {"utt2day": f"d{k // 4}"}) for k in range(8)]
    write_tones(tmp_path / "all", rows, per_recording=2)
    manifest = Manifest.open(tmp_path / "all")
    assert groups_of(manifest, "recording").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert groups_of(manifest, "utt2day").tolist() == [0] * 4 + [1] * 4
    assert groups_of(manifest, "utterance").tolist() == list(range(8))
    with pytest.raises(ValueError, match="utt2none: no such file"):
        groups_of(manifest, "utt2none")


def test_every_part_is_test_once_and_dev_once(tmp_path):
    write_tones(tmp_path / "all", [((0,), {}) for _ in range(6)])
    folds = numbered_folds(Manifest.open(tmp_path / "all"), np.array([0, 1, 2, 0, 1, 2]), ["a", "b", "c"])
    assert [[part.rows.tolist() for part in fold[1:]] for fold in folds] == [
        [[2, 5], [1, 4], [0, 3]],
        [[0, 3], [2, 5], [1, 4]],
        [[1, 4], [0, 3], [2, 5]],
    ]
