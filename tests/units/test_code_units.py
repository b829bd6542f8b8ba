"""Codes of an encoder that quantises, as units: counted, ranked, and looked up again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.data.manifest import Manifest
from audiossl.encoders.vq_wav2vec import VQWav2Vec
from audiossl.units.apply import apply_codebook
from audiossl.units.codebook import load, save
from audiossl.units.features import CodeFeatures, make_features
from audiossl.units.fit import FitConfig, fit_codebook
from audiossl.units.guards import check_units, check_usage
from audiossl.units.labels import read_labels
from audiossl.units.recipe import UnitsConfig, _check_config
from audiossl.units.stream import StreamConfig

STREAM = StreamConfig(5.0, 0)


def features():
    torch.manual_seed(0)
    encoder = VQWav2Vec(VQWav2Vec.Config.tiny())
    with torch.no_grad():
        encoder.quantiser.logits[-1].weight.mul_(30)  # so that many codes are in use
    return CodeFeatures(encoder, source="exp/vq")


def codes_of(manifest, found):
    """By utterance, alone."""
    rows = []
    for index in range(len(manifest)):
        waveform = torch.from_numpy(manifest.audio(index, sample_rate=16000))[None]
        rows.append(found.codes(waveform, torch.tensor([waveform.shape[1]]))[0][0].tolist())
    return rows


def test_units_are_the_combinations_that_occur(corpus, tmp_path):
    manifest, found = Manifest.open(corpus), features()
    rows = codes_of(manifest, found)
    counts = Counter(tuple(codes) for row in rows for codes in row)
    assert len(counts) > 3
    book = fit_codebook(manifest, found, FitConfig(clusters=100), STREAM, log=print)
    ranked = sorted(counts, key=lambda codes: (-counts[codes], codes))
    assert (book.card.feature, book.card.size, book.card.rate, book.card.inertia) == ("codes", len(counts), 100.0, 0.0)
    assert np.array_equal(book.centroids, found.entries(torch.tensor(ranked)).numpy())
    save(book, tmp_path / "units")
    card = apply_codebook(manifest, load(tmp_path / "units"), found, "vq", STREAM, log=print)
    assert card.codebook_size == len(counts)
    labels = [labels.tolist() for _, _, labels in read_labels(corpus, "vq", codebook_size=len(counts))]
    assert labels == [[ranked.index(tuple(codes)) for codes in row] for row in rows]
    check_units(manifest, "vq", log=print)


def test_rare_combinations_become_the_most_similar_unit(corpus):
    manifest, found = Manifest.open(corpus), features()
    counts = Counter(tuple(codes) for row in codes_of(manifest, found) for codes in row)
    book = fit_codebook(manifest, found, FitConfig(clusters=2), STREAM, log=print)
    assert book.card.size == 2
    total = 0.0
    for codes, count in counts.items():
        entry = found.entries(torch.tensor([codes])).numpy()
        total += count * np.square(entry - book.centroids).sum(axis=1).min()
    assert book.card.inertia == pytest.approx(total / counts.total(), rel=1e-4)


def test_options_of_k_means_are_refused(corpus):
    manifest = Manifest.open(corpus)
    for name, value in (("iterations", 5), ("redo", 2), ("max_frames", 1000)):
        with pytest.raises(ValueError, match=f"{name} = {value}: codes are counted"):
            fit_codebook(manifest, features(), replace(FitConfig(), **{name: value}), STREAM, log=print)


def test_a_collapsed_quantiser_gives_no_units(corpus):
    found = features()
    with torch.no_grad():
        found._model.quantiser.logits[-1].weight.zero_()
    with pytest.raises(ValueError, match="its quantiser has collapsed"):
        fit_codebook(Manifest.open(corpus), found, FitConfig(), STREAM, log=print)


def test_codes_may_be_rare_where_clusters_may_not():
    counts, said = np.array([900, 100, 0, 0]), []
    with pytest.raises(ValueError, match="2 of 4 codes are never used"):
        check_usage(counts, "x", log=said.append)
    check_usage(counts, "x", feature="codes", log=said.append)
    assert said == ["warning: x: 2 of 4 codes are never used"]


def test_a_corpus_may_hold_fewer_codes_than_asked_for(corpus, tmp_path):
    book = fit_codebook(Manifest.open(corpus), features(), FitConfig(clusters=100), STREAM, log=print)
    _check_config(book, UnitsConfig(feature="codes", clusters=100), features, tmp_path)
    with pytest.raises(ValueError, match="size is"):
        _check_config(book, UnitsConfig(feature="codes", clusters=2), features, tmp_path)


def test_codes_have_no_layers_and_need_an_encoder():
    with pytest.raises(ValueError, match="feature 'codes' takes no layer"):
        make_features("codes", "exp/a", 3)
    with pytest.raises(ValueError, match="feature 'codes': no encoder is given"):
        make_features("codes", "", 0)
