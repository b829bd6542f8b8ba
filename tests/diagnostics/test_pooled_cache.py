"""The cache against one forward per utterance, and what makes it go on, be used again, or be made anew."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import noises, write_corpus

from audiossl.contracts import EncoderOutput
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.diagnostics import pooled_cache
from audiossl.diagnostics.pooled_cache import CacheConfig, data_digest, pooled_features
from audiossl.diagnostics.sources import FeatureSource, fbank_source

ONE_EACH = CacheConfig(batch_seconds=0.3, num_workers=0)


def corpus(folder, count=6, *, shortest=4000):
    lengths = range(shortest, shortest + 900 * count, 900)
    return Manifest.open(write_corpus(folder / "audio", noises(lengths), speakers=("s0", "s1"), out=folder / "data"))


def counting_source(*, fail_after=None, digest="d" * 64):
    """Two layers; frame t of layer k is the mean and the energy of 400 samples, times k + 1."""
    calls = []

    def extract(waveform, lengths):
        calls.append(len(waveform))
        if fail_after is not None and len(calls) > fail_after:
            raise KeyboardInterrupt
        frames = waveform[:, : waveform.shape[1] // 400 * 400].reshape(len(waveform), -1, 400)
        first = torch.stack([frames.mean(-1), frames.square().mean(-1)], dim=-1)
        return EncoderOutput([first, 2 * first], lengths // 400)

    return FeatureSource("counting", digest, 16_000, 2, 2, 400, 160, extract), calls


def by_hand(manifest, index):
    waveform = manifest.audio(index, sample_rate=16_000)
    frames = waveform[: len(waveform) // 400 * 400].reshape(-1, 400)
    first = np.stack([frames.mean(-1), np.square(frames).mean(-1)], axis=-1).mean(axis=0)
    return np.stack([first, 2 * first])


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    manifest = corpus(tmp_path)
    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/c/.*/features\.npy\.partial'"):
        pooled_features(manifest, counting_source()[0], tmp_path / "c", config=ONE_EACH, log=print)


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_time_means_in_manifest_order(tmp_path, workers):
    manifest = corpus(tmp_path)
    source, calls = counting_source()
    found = pooled_features(manifest, source, tmp_path / "c", config=CacheConfig(1.0, workers), log=print)
    assert found.forwards == sum(calls) == 6
    assert len(calls) < 6  # utterances share batches
    assert found.features.shape == (6, 2, 2)
    assert found.features.dtype == np.float32
    assert isinstance(found.features, np.memmap)
    for index in range(6):
        np.testing.assert_allclose(found.features[index], by_hand(manifest, index), atol=1e-6)
    facts = json.loads((found.path.parent / "features.json").read_text())
    assert (facts["layers"], facts["dim"], facts["source_digest"]) == (2, 2, "d" * 64)
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["features.json", "features.npy"]


def test_second_call_makes_no_forward_and_another_encoder_makes_all(tmp_path):
    manifest = corpus(tmp_path)
    pooled_features(manifest, counting_source()[0], tmp_path / "c", config=ONE_EACH, log=print)
    source, calls = counting_source()
    assert pooled_features(manifest, source, tmp_path / "c", config=ONE_EACH, log=print).forwards == 0
    assert calls == []
    other, _ = counting_source(digest="e" * 64)
    assert pooled_features(manifest, other, tmp_path / "c", config=ONE_EACH, log=print).forwards == 6


def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled_cache, "_BATCHES_PER_SAVE", 2)
    manifest = corpus(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pooled_features(manifest, counting_source(fail_after=5)[0], tmp_path / "c", config=ONE_EACH, log=print)
    source, _ = counting_source()
    found = pooled_features(manifest, source, tmp_path / "c", config=ONE_EACH, log=print)
    assert found.forwards == 2  # four of six were saved
    whole = pooled_features(manifest, source, tmp_path / "d", config=ONE_EACH, log=print)
    np.testing.assert_array_equal(found.features, whole.features)


def test_other_batches_do_not_continue_a_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled_cache, "_BATCHES_PER_SAVE", 1)
    manifest = corpus(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pooled_features(manifest, counting_source(fail_after=3)[0], tmp_path / "c", config=ONE_EACH, log=print)
    found = pooled_features(manifest, counting_source()[0], tmp_path / "c", config=CacheConfig(1.0, 0), log=print)
    assert found.forwards == 6
    assert found.usable.all()


def test_a_pass_does_not_go_on_from_what_another_one_has_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled_cache, "_BATCHES_PER_SAVE", 2)
    manifest = corpus(tmp_path)
    for config, passed in ((ONE_EACH, 5), (CacheConfig(1.0, 0), 1)):  # the second one dies before it saves anything
        with pytest.raises(KeyboardInterrupt):
            pooled_features(manifest, counting_source(fail_after=passed)[0], tmp_path / "c", config=config, log=print)
    found = pooled_features(manifest, counting_source()[0], tmp_path / "c", config=ONE_EACH, log=print)
    assert found.forwards == 6
    for index in range(6):
        np.testing.assert_allclose(found.features[index], by_hand(manifest, index), atol=1e-6)


def test_one_of_two_who_want_a_cache_makes_it_while_the_other_waits(tmp_path):
    manifest = corpus(tmp_path)
    source, calls = counting_source()
    late, late_calls = counting_source()
    found = []

    def ask():
        found.append(pooled_features(manifest, late, tmp_path / "c", config=ONE_EACH, log=print))

    other = threading.Thread(target=ask)

    def extract(waveform, lengths):
        if len(calls) == 3:
            other.start()
            other.join(0.5)
        return source.extract(waveform, lengths)

    first = pooled_features(manifest, replace(source, extract=extract), tmp_path / "c", config=ONE_EACH, log=print)
    other.join()
    assert (first.forwards, found[0].forwards, late_calls) == (6, 0, [])
    for index in range(6):
        np.testing.assert_allclose(first.features[index], by_hand(manifest, index), atol=1e-6)


def test_a_source_spelt_otherwise_is_the_same(tmp_path):
    manifest, (source, _) = corpus(tmp_path), counting_source()
    pooled_features(manifest, source, tmp_path / "c", config=ONE_EACH, log=print)
    other = replace(source, name="./counting")
    assert pooled_features(manifest, other, tmp_path / "c", config=ONE_EACH, log=print).forwards == 0


def test_unusable_recordings_are_named_and_left_out(tmp_path):
    manifest = corpus(tmp_path, shortest=300)
    (tmp_path / "audio" / "3.wav").write_bytes(b"RIFF but nothing else")
    said = []
    config = CacheConfig(1.0, 0, max_bad_fraction=0.5)
    found = pooled_features(manifest, counting_source()[0], tmp_path / "c", config=config, log=said.append)
    bad = [manifest.ids[index] for index in np.flatnonzero(~found.usable)]
    assert sorted(bad) == ["s0-0", "s1-3"]
    assert len(said) == 2
    assert any("too short for one frame" in line for line in said)
    with pytest.raises(ValueError, match="max_bad_fraction"):
        pooled_features(manifest, counting_source()[0], tmp_path / "e", config=CacheConfig(1.0, 0), log=print)
    # A cache that is used again says the same.
    again = []
    found = pooled_features(manifest, counting_source()[0], tmp_path / "c", config=config, log=again.append)
    assert (found.forwards, sorted(again)) == (0, sorted(said))
    with pytest.raises(ValueError, match="2 of 6 utterances cannot be used, more than max_bad_fraction 0.01"):
        pooled_features(manifest, counting_source()[0], tmp_path / "c", config=CacheConfig(1.0, 0), log=print)


def test_a_pass_that_goes_on_names_what_it_had_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled_cache, "_BATCHES_PER_SAVE", 1)
    manifest = corpus(tmp_path)
    (tmp_path / "audio" / "3.wav").write_bytes(b"RIFF but nothing else")
    said, config = [], replace(ONE_EACH, max_bad_fraction=0.5)
    with pytest.raises(KeyboardInterrupt):
        pooled_features(manifest, counting_source(fail_after=4)[0], tmp_path / "c", config=config, log=said.append)
    assert len(said) == 1
    pooled_features(manifest, counting_source()[0], tmp_path / "c", config=config, log=said.append)
    assert said == said[:1] * 2


def test_infinite_features_are_an_error_that_names_the_recording(tmp_path):
    manifest = corpus(tmp_path)
    good, _ = counting_source()

    def extract(waveform, lengths):
        output = good.extract(waveform, lengths)
        output.layers[1][0] = torch.inf
        return output

    source = FeatureSource("broken", "f" * 64, 16_000, 2, 2, 400, 160, extract)
    with pytest.raises(ValueError, match="s1-5: broken gives nan or infinity"):
        pooled_features(manifest, source, tmp_path / "c", config=ONE_EACH, log=print)


def test_digest_follows_the_audio_tables(tmp_path):
    manifest = corpus(tmp_path)
    before = data_digest(manifest)
    assert data_digest(Manifest.open(manifest.path)) == before
    assert data_digest(manifest.subset(np.arange(5))) != before
    table = manifest.path / "wav.scp"
    table.write_text(table.read_text().replace("/0.wav", "/1.wav"))
    assert data_digest(Manifest.open(manifest.path)) != before


def test_digest_follows_recordings_that_are_made_again(tmp_path):
    manifest = corpus(tmp_path)
    before = data_digest(manifest)
    recording = tmp_path / "audio" / "0.wav"
    write_audio(recording, 0.5 * read_audio(recording), 16_000)
    assert data_digest(Manifest.open(manifest.path)) != before
    recording.unlink()
    assert data_digest(Manifest.open(manifest.path))


def test_recordings_are_looked_at_in_threads_and_in_order(tmp_path, monkeypatch):
    manifest = corpus(tmp_path)
    digest = hashlib.sha256(manifest.durations.tobytes())
    digest.update("\n".join(manifest.ids).encode())
    digest.update(hashlib.sha256((manifest.path / "wav.scp").read_bytes()).digest())
    for line in (manifest.path / "wav.scp").read_text().splitlines():
        found = Path(line.split()[1]).stat()
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    threads = set()
    place = pooled_cache.audio_path
    monkeypatch.setattr(pooled_cache, "audio_path", lambda *a: threads.add(threading.get_ident()) or place(*a))
    assert data_digest(manifest) == digest.hexdigest()
    assert threads
    assert threading.get_ident() not in threads


def test_what_can_be_used_is_known_without_a_look_at_the_features(tmp_path, monkeypatch):
    manifest = corpus(tmp_path)
    (tmp_path / "audio" / "3.wav").write_bytes(b"RIFF but nothing else")
    config = CacheConfig(1.0, 0, max_bad_fraction=0.5)

    def pooled():
        return pooled_features(manifest, counting_source()[0], tmp_path / "c", config=config, log=print)

    first = pooled()
    np.testing.assert_array_equal(first.usable, ~np.isnan(first.features[:, 0, 0]))
    monkeypatch.setattr(np, "load", lambda *a, **k: None)
    assert pooled().usable.tolist() == first.usable.tolist() == [n != "s1-3" for n in manifest.ids]


@pytest.mark.parametrize("deltas", [False, True])
def test_filterbank_means(tmp_path, deltas):
    from audiossl.nn.features import fbank

    manifest = corpus(tmp_path)
    found = pooled_features(
        manifest, fbank_source(deltas=deltas), tmp_path / "c", config=CacheConfig(1.0, 0), log=print
    )
    assert found.features.shape == (6, 1, 240 if deltas else 80)
    waveform = torch.from_numpy(manifest.audio(2, sample_rate=16_000))[None]
    frames, _ = fbank(waveform, torch.tensor([waveform.shape[1]]))
    np.testing.assert_allclose(found.features[2, 0, :80], frames[0].mean(dim=0).numpy(), atol=1e-4)


def test_deviations_stand_behind_the_means_in_a_cache_of_their_own(tmp_path):
    manifest = corpus(tmp_path)
    source, calls = counting_source()
    means = pooled_features(manifest, source, tmp_path / "c", config=CacheConfig(1.0, 0), log=print)
    both = pooled_features(manifest, source, tmp_path / "c", config=CacheConfig(1.0, 0, deviations=True), log=print)
    assert both.forwards == 6
    assert both.features.shape == (6, 2, 4)
    np.testing.assert_array_equal(both.features[:, :, :2], means.features)
    for index in range(6):
        waveform = manifest.audio(index, sample_rate=16_000).astype(np.float64)
        frames = waveform[: len(waveform) // 400 * 400].reshape(-1, 400)
        first = np.stack([frames.mean(-1), np.square(frames).mean(-1)], axis=-1).std(axis=0)
        np.testing.assert_allclose(both.features[index, :, 2:], np.stack([first, 2 * first]), atol=1e-6)
    before = len(calls)
    for deviations in (False, True):
        config = CacheConfig(1.0, 0, deviations=deviations)
        assert pooled_features(manifest, source, tmp_path / "c", config=config, log=print).forwards == 0
    assert len(calls) == before
