"""The store gives back what it was given, never more than its budget, and an upstream's features whatever shares their batch."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from frame_runs import DIM, LAYERS, RATE, STRIDE, Upstream, make_corpus

from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.sources import FeatureSource
from audiossl.nn.batch_dependence import one_by_one
from audiossl.superb.frame_store import FrameStore, Undecoded, bytes_needed, in_use, told_size
from audiossl.superb.frame_stream import Frames, FrameViews, Split


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return Manifest.open(make_corpus(tmp_path_factory.mktemp("corpus")) / "train")


def frames_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((LAYERS, count, DIM)).astype(np.float32)


def open_store(manifest, folder, max_bytes=10**6, dtype="float32"):
    return FrameStore(folder, manifest, Upstream().source, dtype, max_bytes)


def outputs(manifest, frames, config=None):
    """Frames of each utterance, from one pass: {utterance: (layer, frame, dim)}."""
    config = config or LoaderConfig(batch_utterances=3, num_workers=0)
    split = Split(manifest, frames, config, 0, print)
    return {
        utterance: torch.stack([layer[k, : taken.output.lengths[k]] for layer in taken.output.layers])
        for taken in split.once("")
        for k, utterance in enumerate(taken.batch["utt_ids"])
    }


def test_what_is_added_is_read_also_by_the_next_run(manifest, tmp_path):
    store = open_store(manifest, tmp_path)
    kept = [frames_of(3, 1), frames_of(5, 2)]
    assert not store.has(4)
    store.add([4, 2], kept)
    for each in (store, open_store(manifest, tmp_path)):
        assert [each.has(row) for row in range(6)] == [False, False, True, False, True, False]
        np.testing.assert_array_equal(each.read(4), kept[0])
        np.testing.assert_array_equal(each.read(2), kept[1])
    open_store(manifest, tmp_path).add([0], [frames_of(2, 3)])
    assert store.has(0)  # the table is shared
    np.testing.assert_array_equal(store.read(0), frames_of(2, 3))


def test_the_first_batch_that_does_not_fit_closes_the_store(manifest, tmp_path):
    size = frames_of(4).nbytes
    store = open_store(manifest, tmp_path, max_bytes=3 * size)
    store.add([0, 1], [frames_of(4), frames_of(4)])
    store.add([2, 3], [frames_of(4), frames_of(4)])
    store.add([4], [frames_of(4)])
    assert store.closed
    assert [store.has(row) for row in range(5)] == [True, True, False, False, False]
    assert store.path.stat().st_size == 2 * size
    assert open_store(manifest, tmp_path, max_bytes=3 * size).closed
    larger = open_store(manifest, tmp_path, max_bytes=4 * size)
    assert not larger.closed
    larger.add([2], [frames_of(4)])
    assert larger.has(2)


def test_what_two_add_at_once_lies_side_by_side(manifest, tmp_path, monkeypatch):
    one, other = open_store(manifest, tmp_path), open_store(manifest, tmp_path)
    kept = {row: frames_of(3 + row, row) for row in range(3)}
    late = threading.Thread(target=other.add, args=([1, 2], [kept[1], kept[2]]))

    def synced(_):
        if late.ident is None:
            late.start()
            late.join(0.3)

    monkeypatch.setattr(os, "fsync", synced)
    one.add([0, 1], [kept[0], kept[1]])
    late.join()
    for store in (one, other):
        for row, frames in kept.items():
            np.testing.assert_array_equal(store.read(row), frames)
    assert one.path.stat().st_size == sum(frames.nbytes for frames in kept.values())


def test_other_features_have_a_store_of_their_own(manifest, tmp_path):
    store = open_store(manifest, tmp_path)
    store.add([0], [frames_of(4)])
    assert not open_store(manifest, tmp_path, dtype="float16").has(0)
    assert not open_store(manifest.subset(np.arange(5)), tmp_path).has(0)
    assert open_store(manifest, tmp_path).has(0)


def test_needed_bytes_are_enough(manifest, tmp_path):
    source = Upstream().source
    store = open_store(manifest, tmp_path, max_bytes=bytes_needed(manifest, source, "float32"))
    outputs(manifest, Frames(source, store, torch.device("cpu")))
    assert all(store.has(row) for row in range(len(manifest)))
    assert store.path.stat().st_size > 0.9 * store.max_bytes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cached_frames_equal_computed_ones(manifest, tmp_path, dtype):
    plain = outputs(manifest, Frames(Upstream().source, None, torch.device("cpu")))
    frames = Frames(Upstream().source, open_store(manifest, tmp_path, dtype=dtype), torch.device("cpu"))
    first = outputs(manifest, frames)
    assert frames.forwards == len(manifest)
    second = outputs(manifest, frames, LoaderConfig(batch_utterances=4, num_workers=2))
    assert frames.forwards == len(manifest)
    assert plain.keys() == first.keys() == second.keys() == set(manifest.ids)
    for utterance, wanted in plain.items():
        rounded = wanted.half().float() if dtype == "float16" else wanted
        assert torch.equal(first[utterance], rounded)
        assert torch.equal(second[utterance], rounded)
    np.testing.assert_allclose(first["train0"][1, 7], frame_by_hand(manifest, 0, 1, 7), atol=2e-3)


def frame_by_hand(manifest, index, layer, frame):
    waveform = manifest.audio(index, sample_rate=RATE).astype(np.float64)
    return waveform[frame * STRIDE : (frame + 1) * STRIDE] @ Upstream().maps[layer].double().numpy()


def test_padding_is_zero_and_cached_recordings_are_not_decoded(manifest, tmp_path):
    store = open_store(manifest, tmp_path)
    frames = Frames(Upstream().source, store, torch.device("cpu"))
    config = LoaderConfig(batch_utterances=5, num_workers=0)
    for samples in (True, False):
        for taken in Split(manifest, frames, config, 0, print).once(""):
            assert bool((taken.batch["waveform_lengths"] > 0).all()) is samples
            for layer in taken.output.layers:
                assert layer.dtype == torch.float32
                for row, length in zip(layer, taken.output.lengths, strict=True):
                    assert not row[length:].any()
                    assert row[:length].all()
    assert Undecoded(manifest, store).audio(0, sample_rate=RATE).size == 0


def test_utterances_that_are_too_short_are_left_out_also_where_their_frames_are_kept(manifest, tmp_path):
    config, source = LoaderConfig(batch_utterances=3, num_workers=0, max_bad_fraction=1.0), Upstream().source
    least = int(np.median(manifest.durations) * RATE) // STRIDE
    stores = [open_store(manifest, tmp_path / name) for name in ("fresh", "filled")]
    list(Split(manifest, Frames(source, stores[1], torch.device("cpu")), config, 0, print).once(""))
    assert all(map(stores[1].has, range(len(manifest))))
    found = []
    for store in stores:
        split = Split(manifest, Frames(source, store, torch.device("cpu")), config, 0, lambda _: None, min_frames=least)
        found.append([(taken.batch["utt_ids"], taken.batch["bad"]) for taken in split.once("")])
    assert found[0] == found[1]
    assert any(bad for _, bad in found[0])


def test_features_do_not_depend_on_batch_mates(manifest, tmp_path):
    """The upstream divides by a mean over the batch, padding included; the source runs it on one recording at a time."""
    upstream = Upstream()

    def minds(waveform, lengths):
        output = upstream(waveform, lengths)
        output.layers = [layer / layer.abs().mean() for layer in output.layers]
        return output

    mended = FeatureSource("minds", "cd" * 32, RATE, LAYERS, DIM, STRIDE, STRIDE, one_by_one(minds))
    batches = [LoaderConfig(batch_utterances=count, num_workers=0) for count in (1, 4)]
    alone, beside = (outputs(manifest, Frames(mended, None, torch.device("cpu")), config) for config in batches)
    cached = Frames(mended, FrameStore(tmp_path, manifest, mended, "float32", 10**6), torch.device("cpu"))
    outputs(manifest, cached, batches[1])
    again = outputs(manifest, cached, LoaderConfig(batch_utterances=3, num_workers=0))
    for utterance, wanted in alone.items():
        torch.testing.assert_close(beside[utterance], wanted)
        torch.testing.assert_close(again[utterance], wanted)


def test_nan_is_named(manifest, tmp_path):
    broken = FeatureSource("broken", "ef" * 32, RATE, LAYERS, DIM, STRIDE, STRIDE, _with_nan)
    with pytest.raises(ValueError, match=r"^train\d: broken gives nan or infinity; check this recording"):
        outputs(manifest, Frames(broken, None, torch.device("cpu")))


def _with_nan(waveform, lengths):
    output = Upstream()(waveform, lengths)
    output.layers[1][-1, 3, 2] = torch.nan
    return output


def test_recordings_without_a_frame_are_bad(manifest):
    class Short:
        id, sample_rate, duration, columns = "u", RATE, 0.01, {}
        waveform = np.ones(160, np.float32)

    with pytest.raises(ValueError, match=r"0\.010 s is too short for one frame \(0\.020 s\); leave it out"):
        FrameViews(STRIDE).views(Short(), np.random.default_rng(0))


def test_sizes_are_told_in_gigabytes():
    assert told_size(12_345_678_901, 100.0) == "frames: 12.3 GB, budget 100 GB"
    assert told_size(1_234_567, 0.0012) == "frames: 0.00123 GB, budget 0.0012 GB"


def sized_store(folder, name, size, age):
    place = folder / name
    place.mkdir(parents=True)
    (place / "frames.bin").write_bytes(bytes(size))
    (place / "frames.json").write_text("{}")
    os.utime(place / "frames.json", (age, age))
    return place


def test_stores_that_nobody_uses_make_room_the_oldest_first(tmp_path):
    for name, age in (("old", 1), ("older", 0), ("new", 2)):
        sized_store(tmp_path, name, 100, age)
    (tmp_path / "lengths.npy").write_bytes(bytes(500))  # no store
    mine = tmp_path / "mine"
    with in_use(tmp_path, [mine], 150, 300) as left:
        assert left == 200
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lengths.npy", "mine", "new"]
    with in_use(tmp_path, [mine, tmp_path / "new"], 300, 300) as left:
        assert left == 300  # a store's own bytes are of its share


def test_stores_that_another_run_uses_stay(tmp_path):
    held = sized_store(tmp_path, "held", 100, 0)
    with in_use(tmp_path, [held], 100, 300), in_use(tmp_path, [tmp_path / "mine"], 250, 300) as left:
        assert held.is_dir()
        assert left == 200
    with in_use(tmp_path, [tmp_path / "mine"], 250, 300) as left:
        assert not held.exists()
        assert left == 300
