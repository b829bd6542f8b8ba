"""What is promised of a data directory holds for both layouts, with and without segments."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from kaldi_dirs import RATE, make

from audiossl.data.directory import DataDirectory
from audiossl.data.manifest import Manifest
from audiossl.data.shards import write_shards
from audiossl.superb.parts import groups_of


@pytest.fixture(params=["segments", "recordings"])
def source(request, tmp_path):
    return make(tmp_path, segments=request.param == "segments")


@pytest.fixture(params=["files", "shards"])
def opened(request, source, tmp_path):
    if request.param == "shards":
        write_shards(Manifest.open(source), tmp_path / "shards", sample_rate=RATE)
        return Manifest.open(tmp_path / "shards")
    return Manifest.open(source)


def test_it_is_one(opened):
    assert isinstance(opened, DataDirectory)
    assert isinstance(opened.subset(np.array([0])), DataDirectory)


def test_it_says_what_the_directory_says(opened, source):
    manifest = Manifest.open(source)
    numbers = range(len(manifest))
    assert list(opened.ids) == list(manifest.ids)
    assert len(opened) == len(manifest)
    assert opened.allow_commands is False
    assert opened.durations.dtype == np.float64
    np.testing.assert_allclose(opened.durations, manifest.durations)
    assert [opened.recording(n) for n in numbers] == [manifest.recording(n) for n in numbers]
    assert [opened.header_duration(n) for n in numbers] == pytest.approx([1.0] * 6)
    assert set(opened.column_names()) == set(manifest.column_names())
    assert list(opened.column("text")) == list(manifest.column("text"))
    np.testing.assert_array_equal(groups_of(opened, "recording"), groups_of(manifest, "recording"))
    for how in ({}, {"start": 0.25, "seconds": 0.5}):
        found, true = (each.audio(4, sample_rate=RATE, **how) for each in (opened, manifest))
        np.testing.assert_allclose(found, true, atol=2**-15)
    with pytest.raises(ValueError, match="no such file; the columns of"):
        opened.column("utt2nothing")


def test_subsets_and_pickles(opened):
    part = opened.subset(np.array([5, 1]))
    for each in (part, pickle.loads(pickle.dumps(part))):
        assert list(each.ids) == [opened.ids[5], opened.ids[1]]
        assert [each.recording(n) for n in (0, 1)] == [opened.recording(n) for n in (5, 1)]
        assert each.header_duration(1) == opened.header_duration(1)
        assert each.allow_commands == opened.allow_commands
        np.testing.assert_array_equal(each.audio(1, sample_rate=RATE), opened.audio(1, sample_rate=RATE))
    with pytest.raises(ValueError, match="utterances 0 to 9 of 6"):
        opened.subset(np.array([0, 9]))
