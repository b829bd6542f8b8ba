"""Labels are the nearest centroids of each recording's own frames, and useless ones are not written."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import time
from threading import Thread

import numpy as np
import pytest
import torch

from audiossl.config import to_table
from audiossl.data.manifest import Manifest
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.encoder import build_encoder
from audiossl.nn.features import mfcc39
from audiossl.units.apply import apply_codebook, labelling
from audiossl.units.codebook import Codebook
from audiossl.units.features import EncoderFeatures, MFCCFeatures
from audiossl.units.fit import FitConfig, fit_codebook
from audiossl.units.guards import check_units
from audiossl.units.labels import has_labels, read_card
from audiossl.units.stream import StreamConfig

STREAM = StreamConfig(5.0, 0)


def fit(manifest, features, clusters=8):
    return fit_codebook(manifest, features, FitConfig(clusters=clusters, iterations=10), STREAM, log=print)


def apply(manifest, book, features=None, *, workers=0):
    return apply_codebook(manifest, book, features or MFCCFeatures(), "km", StreamConfig(5.0, workers), log=print)


def test_labels_are_nearest_centroids(corpus):
    manifest = Manifest.open(corpus)
    book = fit(manifest, MFCCFeatures())
    card = apply(manifest, book)
    units = Manifest.open(corpus).column("units/km")
    for index in range(len(manifest)):
        waveform = torch.from_numpy(manifest.audio(index, sample_rate=16000))[None]
        frames = mfcc39(waveform, torch.tensor([waveform.shape[1]]), full_scale=1.0)[0][0].double().numpy()
        squares = np.square(frames[:, None] - book.centroids[None].astype(np.float64)).sum(axis=-1)
        labels = np.array(units[index].split(), dtype=int)
        chosen = squares[np.arange(len(frames)), labels]
        assert (chosen <= squares.min(axis=1) * (1 + 1e-5)).all()  # float32 may part equals either way
    assert read_card(corpus, "km") == card
    assert (card.codebook_hash, card.codebook_size, card.rate) == (book.hash, 8, 100.0)
    assert (card.utterances, card.left_out) == (12, 0)
    assert card.labels == sum(len(row.split()) for row in units)
    assert check_units(manifest, "km", log=print).sum() == card.labels


def test_same_bytes_with_workers(corpus):
    manifest = Manifest.open(corpus)
    book = fit(manifest, MFCCFeatures())
    tables = []
    for workers in (0, 2):
        apply(manifest, book, workers=workers)
        tables.append((corpus / "units/km").read_bytes())
    assert tables[0] == tables[1]


def test_units_of_an_encoder(corpus):
    torch.manual_seed(0)
    features = EncoderFeatures(Wav2Vec2(Wav2Vec2.Config.tiny()), source="exp/a", layer=1)
    manifest = Manifest.open(corpus)
    card = apply(manifest, fit(manifest, features), features)
    assert (card.feature, card.encoder, card.layer, card.rate) == ("encoder", "exp/a", 1, 50.0)
    assert card.encoder_hash == features.encoder_hash
    torch.manual_seed(1)
    other = EncoderFeatures(Wav2Vec2(Wav2Vec2.Config.tiny()), source="exp/a", layer=1)
    with pytest.raises(ValueError, match="exp/a: its encoder_hash is"):
        apply(manifest, fit(manifest, features), other)


def test_units_know_their_encoder_by_its_settings_too_and_older_ones_by_its_weights(corpus):
    tiny = {"name": "wav2vec2", **to_table(Wav2Vec2.Config.tiny())}

    def features(**changed):
        torch.manual_seed(0)
        return EncoderFeatures(build_encoder({**tiny, **changed}), source="exp/a", layer=1)

    one, other = features(), features(num_heads=1)
    assert one.weights_hash == other.weights_hash
    book = fit(Manifest.open(corpus), one)
    book.check_features(features())
    with pytest.raises(ValueError, match="exp/a: its encoder_hash is"):
        book.check_features(other)
    Codebook(book.centroids, dataclasses.replace(book.card, encoder_hash=one.weights_hash)).check_features(one)


def test_frames_are_compared_where_they_are(corpus, monkeypatch):
    features = EncoderFeatures(Wav2Vec2(Wav2Vec2.Config.tiny()), source="exp/a", layer=1, device="cpu")
    book = fit(Manifest.open(corpus), features)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert apply(Manifest.open(corpus), book, features).labels > 0  # on a GPU it would fail here


def test_useless_labels_are_not_written_and_the_old_ones_stay(corpus):
    manifest = Manifest.open(corpus)
    book = fit(manifest, MFCCFeatures())
    apply(manifest, book)
    before = (corpus / "units/km").read_bytes()
    far = np.full_like(book.centroids, 1e4)
    far[0] = book.centroids.mean(axis=0)
    with pytest.raises(ValueError, match="labels are 0; a model would learn nothing"):
        apply(manifest, Codebook(far, book.card))
    assert has_labels(corpus, "km")
    assert (corpus / "units/km").read_bytes() == before
    assert sorted(path.name for path in (corpus / "units").iterdir()) == ["km", "km.json"]


def test_durations_that_are_not_those_of_the_audio(corpus):
    book = fit(Manifest.open(corpus), MFCCFeatures())
    rows = (line.split() for line in (corpus / "utt2dur").read_text().splitlines())
    (corpus / "utt2dur").write_text("".join(f"{name} {2 * float(seconds)}\n" for name, seconds in rows))
    with pytest.raises(ValueError, match=r"units/km: 'spk.* labels; .* s at 100 Hz should give about"):
        apply(Manifest.open(corpus), book)
    assert not has_labels(corpus, "km")


def test_codebook_of_another_rate(corpus):
    manifest = Manifest.open(corpus)
    book = fit(manifest, MFCCFeatures())
    with pytest.raises(ValueError, match=r"mfcc: its rate is 100.0, but the codebook was fitted with 50.0"):
        apply(manifest, Codebook(book.centroids, dataclasses.replace(book.card, rate=50.0)))


def test_one_process_at_a_time_labels_a_directory(tmp_path):
    done, lines = [], []

    def other():
        with labelling([tmp_path / "a" / ".." / "b"], lines.append):
            done.append("other")

    for name in "ab":
        (tmp_path / name).mkdir()
    with labelling([tmp_path / "b", tmp_path / "a", tmp_path / "b"], print):
        thread = Thread(target=other)
        thread.start()
        while not lines:
            time.sleep(0.01)
        done.append("first")
    thread.join(timeout=60)
    assert done == ["first", "other"]
    assert lines == [f"{tmp_path / 'b'}: another run is at work here; waiting for it"]


def test_labels_are_made_where_there_are_no_locks(tmp_path, monkeypatch):
    def none(_descriptor, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with labelling([tmp_path], print):
        pass
