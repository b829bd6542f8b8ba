"""What is diagnosed: which columns hold classes, how they are split, and how much of the data is looked at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from audiossl.data.manifest import Manifest
from audiossl.diagnostics.pooled_cache import CacheConfig, PooledFeatures
from audiossl.diagnostics.sources import fbank_source
from audiossl.diagnostics.subject import Subject, sample

WORDS = ["yes"] * 20 + ["no"] * 12 + ["maybe"] * 3 + ["once"]


@pytest.fixture
def subject(tmp_path):
    """36 utterances, the second of them unusable, of which the last five have no word."""
    ids = [f"u{number:02}" for number in range(36)]
    (tmp_path / "wav.scp").write_text("".join(f"{name} /nowhere/{name}.wav\n" for name in ids))
    for column, values in (("utt2dur", ["1.0"] * 36), ("utt2url", ids), ("utt2word", WORDS[:31])):
        lines = (f"{name} {value}\n" for name, value in zip(ids, values, strict=False))
        (tmp_path / column).write_text("".join(lines))
    usable = np.arange(36) != 1
    made = Subject(fbank_source(), Manifest.open(tmp_path), tmp_path, tmp_path, CacheConfig(), print)
    vars(made)["pooled"] = PooledFeatures(tmp_path, np.zeros((36, 1, 80), np.float32), usable, 0)
    return made


def test_columns_whose_values_repeat_hold_classes(subject):
    found = subject.labels()
    assert list(found) == ["utt2word"]  # durations are no labels, and urls never repeat
    labels = found["utt2word"]
    assert labels.names == ("no", "yes")
    assert labels.rows.tolist() == [0, *range(2, 31)]
    assert [labels.names[number] for number in labels.numbers] == [WORDS[row] for row in labels.rows]
    assert subject.labels(smallest=12) == {}  # 11 of "no" have their word


def test_labels_of_any_rows(subject):
    labels = subject.labels_of(subject.manifest, "utt2word", np.array([19, 20, 35]))
    assert (labels.rows.tolist(), labels.names) == ([19, 20], ("no", "yes"))
    with pytest.raises(ValueError, match="utt2mood: no such file"):
        subject.labels_of(subject.manifest, "utt2mood", np.arange(3))


def test_classes_that_cannot_be_split_are_left_out(subject):
    rows = np.arange(35)
    labels = subject.labels_of(subject.manifest, "utt2word", np.arange(31))
    numbers = np.concatenate([labels.numbers, [2, 2, 2, 2]])
    splits, names = subject.split(
        np.zeros((35, 1, 4)), dataclasses.replace(labels, rows=rows, numbers=numbers, names=("no", "yes", "odd"))
    )
    assert names == ("no", "yes")
    assert sorted(np.concatenate([split.rows for split in splits]).tolist()) == list(range(31))
    assert [len(split.rows) for split in splits] == [22, 3, 6]
    few = dataclasses.replace(labels, rows=rows[:6], numbers=numbers[:6], names=("no", "yes"))
    assert subject.split(np.zeros((6, 1, 4)), few) is None


def test_samples_are_drawn_once_and_stay_in_order(subject):
    some = sample(subject.manifest, 10, seed=3)
    assert list(some.ids) == sorted(some.ids)
    assert list(some.ids) == list(sample(subject.manifest, 10, seed=3).ids)
    assert list(some.ids) != list(sample(subject.manifest, 10, seed=4).ids)
    assert sample(subject.manifest, 36, seed=0) is subject.manifest


def test_what_cannot_be_diagnosed(subject):
    with pytest.raises(ValueError, match="layer 1: fbank has layers 0 to 0"):
        dataclasses.replace(subject, layer=1)
    with pytest.raises(ValueError, match="--against fbank: has the same weights"):
        dataclasses.replace(subject, against=fbank_source())
