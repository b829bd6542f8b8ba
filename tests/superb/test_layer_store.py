"""Stored layers against one forward per utterance; what goes on, is used again, or is made anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from search_data import DIM, HOP, features, upstream, write

from audiossl.contracts import EncoderOutput
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.superb.frame_store import bytes_needed
from audiossl.superb.layer_store import of_layers, store_layers

LOADING = LoaderConfig(batch_seconds=2.0, num_workers=0)


def keep(manifest, source, folder, *, layers=(0, 2), precision="float32", loading=LOADING, log=print):
    return store_layers(manifest, source, folder, layers=layers, precision=precision, loading=loading, log=log)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return Manifest.open(write(tmp_path_factory.mktemp("search")) / "documents")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_every_utterance_in_every_layer(manifest, tmp_path, precision, tolerance):
    source, calls = upstream()
    store = keep(manifest, source, tmp_path / "s", precision=precision)
    assert store.forwards == sum(calls) == len(manifest) == len(set(store.ids))
    assert len(calls) < len(manifest)
    for layer in (0, 2):
        seen = []
        for items in store.groups(layer, 100):
            assert sum(map(len, items)) <= 100
            seen += items
        for name, frames in zip(store.ids, seen, strict=True):
            wanted = features(source, manifest, list(manifest.ids).index(name), layer)
            np.testing.assert_allclose(frames.numpy(), wanted, atol=tolerance)
    assert store.store.path.stat().st_size == bytes_needed(manifest, of_layers(source, (0, 2)), precision)


def test_an_utterance_above_the_limit_is_a_group_of_its_own(manifest, tmp_path):
    store = keep(manifest, upstream()[0], tmp_path / "s")
    groups = list(store.groups(0, 1))
    assert [len(items) for items in groups] == [1] * len(manifest)


def test_it_is_used_again_and_made_anew_for_another_upstream(manifest, tmp_path):
    keep(manifest, upstream()[0], tmp_path / "s")
    source, calls = upstream()
    store = keep(manifest, source, tmp_path / "s")
    assert (store.forwards, calls) == (0, [])
    assert len(store.ids) == len(manifest)
    for change in ({"layers": (0, 1)}, {"precision": "float16"}):
        assert keep(manifest, upstream()[0], tmp_path / "s", **change).forwards == len(manifest)
    assert keep(manifest, upstream(digest="e" * 64)[0], tmp_path / "s").forwards == len(manifest)
    assert len(list((tmp_path / "s").iterdir())) == 1  # what it does not use takes no place


def test_what_is_left_of_another_layout_goes(manifest, tmp_path):
    folder = tmp_path / "s"
    (folder / "older").mkdir(parents=True)
    for name in ("layer_00", "progress.json", "older/frames.bin"):
        (folder / name).write_bytes(b"old")
    (folder / "link").symlink_to(tmp_path)
    store = keep(manifest, upstream()[0], folder)
    assert [*folder.iterdir()] == [store.store.path.parent]


def test_an_interrupted_pass_goes_on(manifest, tmp_path):
    source, _ = upstream(fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        keep(manifest, source, tmp_path / "s")
    source, more = upstream()
    store = keep(manifest, source, tmp_path / "s")
    assert 0 < store.forwards < len(manifest)
    assert store.forwards == sum(more)
    whole = keep(manifest, upstream()[0], tmp_path / "whole")
    assert store.ids == whole.ids
    for layer in (0, 2):
        for one, other in zip(*(list(kept.groups(layer, 1)) for kept in (store, whole)), strict=True):
            assert one[0].equal(other[0])


def test_unusable_recordings_are_named_and_left_out(tmp_path):
    root = write(tmp_path / "data")
    (root / "audio" / "d07.wav").write_bytes(b"no audio")
    manifest, said = Manifest.open(root / "documents"), []
    store = keep(
        manifest, upstream()[0], tmp_path / "s", loading=replace(LOADING, max_bad_fraction=0.1), log=said.append
    )
    assert set(manifest.ids) - set(store.ids) == {"d07"}
    assert len(said) == 1
    assert "d07" in said[0]
    with pytest.raises(ValueError, match="1 of 20 utterances cannot be used"):
        keep(manifest, upstream()[0], tmp_path / "t")


def test_features_that_are_not_finite_are_refused(manifest, tmp_path):
    source, _ = upstream()

    def extract(waveform, lengths):
        return EncoderOutput([torch.full((len(waveform), waveform.shape[1] // HOP, DIM), 1e5)] * 3, lengths // HOP)

    with pytest.raises(ValueError, match=r"gives nan or infinity in float16; check this recording"):
        keep(manifest, replace(source, extract=extract), tmp_path / "s", precision="float16")
