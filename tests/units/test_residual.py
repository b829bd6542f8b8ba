"""Residual codebooks: each lowers the error, and codes are those of a slow nearest neighbour on what is left."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from audiossl.data.manifest import Manifest
from audiossl.units import codebook as codebooks
from audiossl.units.apply import apply_codebook
from audiossl.units.features import MFCCFeatures
from audiossl.units.fit import FitConfig, fit_codebook
from audiossl.units.guards import check_units
from audiossl.units.kmeans import kmeans
from audiossl.units.labels import has_labels, read_labels, set_names
from audiossl.units.residual import ResidualQuantiser, residual_kmeans
from audiossl.units.stream import StreamConfig

STREAM = StreamConfig(5.0, 0)


def quiet(line):
    del line


def cloud(points=3000, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((points, dim)).astype(np.float32)


def fit(points, codebooks, clusters=16):
    options = {"iterations": 10, "redo": 1, "seed": 0, "log": quiet}
    return residual_kmeans(points, clusters, codebooks, **options)


def reconstruct(stages, codes):
    return sum(stages[stage][codes[stage]] for stage in range(len(stages)))


def test_each_codebook_lowers_the_error():
    points = cloud()
    left = points.copy()
    found = fit(left, 5)
    stages = np.stack([clustering.centroids for clustering in found])
    codes = ResidualQuantiser(stages)(torch.from_numpy(points)).numpy()
    errors = [np.square(points - reconstruct(stages[:k], codes)).sum(axis=1).mean() for k in range(1, 6)]
    assert errors == pytest.approx([clustering.inertia for clustering in found], rel=1e-4)
    assert np.square(points).sum(axis=1).mean() > errors[0]
    assert all(later < 0.8 * earlier for earlier, later in pairwise(errors))
    np.testing.assert_allclose(left, points - reconstruct(stages, codes), atol=1e-5)  # in place


def test_codes_are_the_nearest_of_what_is_left():
    points, stages = cloud(200), np.stack([cloud(7, seed=k) / k for k in (1, 2, 3)])
    codes = ResidualQuantiser(stages)(torch.from_numpy(points)).numpy()
    left = points.astype(np.float64)
    for stage in range(3):
        distances = np.square(left[:, None] - stages[stage][None]).sum(axis=-1)
        assert (codes[stage] == distances.argmin(axis=1)).all()
        left -= stages[stage][codes[stage]]


def test_one_codebook_is_plain_kmeans():
    points = cloud()
    before = points.copy()
    plain = kmeans(points, 16, iterations=10, redo=1, seed=0)
    assert np.array_equal(fit(points, 1)[0].centroids, plain.centroids)
    assert np.array_equal(points, before)


def test_units_of_a_corpus(corpus, tmp_path):
    manifest, lines = Manifest.open(corpus), []
    config = FitConfig(clusters=8, iterations=10, codebooks=3)
    book = fit_codebook(manifest, MFCCFeatures(), config, STREAM, log=lines.append)
    assert (book.centroids.shape, book.stages.shape, book.card.codebooks) == ((24, 39), (3, 8, 39), 3)
    errors = [float(line.split()[-1]) for line in lines if line.startswith("codebook ")]
    assert len(errors) == 3
    assert errors == sorted(errors, reverse=True)
    assert book.card.inertia == pytest.approx(errors[-1], rel=1e-3)
    first = fit_codebook(manifest, MFCCFeatures(), FitConfig(clusters=8, iterations=10), STREAM, log=quiet)
    assert np.array_equal(book.stages[0], first.centroids)
    codebooks.save(book, tmp_path / "book")
    again = codebooks.load(tmp_path / "book")
    assert again.card == book.card
    card = apply_codebook(manifest, again, MFCCFeatures(), "rvq", STREAM, log=quiet)
    apply_codebook(manifest, first, MFCCFeatures(), "km", STREAM, log=quiet)
    names = set_names("rvq", 3)
    assert names == ["rvq_0", "rvq_1", "rvq_2"]
    assert not has_labels(corpus, "rvq")
    assert (corpus / "units/rvq_0").read_bytes() == (corpus / "units/km").read_bytes()
    counts = [check_units(manifest, name, log=quiet) for name in names]
    assert {int(count.sum()) for count in counts} == {card.labels}
    tables = [dict(row[1:] for row in read_labels(corpus, name, codebook_size=8)) for name in names]
    waveform = torch.from_numpy(manifest.audio(3, sample_rate=16000))[None]
    frames = MFCCFeatures()(waveform, torch.tensor([waveform.shape[1]]))[0][0].numpy()
    codes = np.stack([table[manifest.ids[3]] for table in tables])
    errors = [np.square(frames - reconstruct(book.stages[:k], codes)).sum(axis=1).mean() for k in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)


def test_useless_labels_of_one_codebook_leave_no_file(corpus):
    manifest = Manifest.open(corpus)
    book = fit_codebook(manifest, MFCCFeatures(), FitConfig(clusters=8, iterations=2, codebooks=2), STREAM, log=quiet)
    far = book.centroids.copy()
    far[9:] = 1e5  # the second codebook has one code that is ever near
    with pytest.raises(ValueError, match=r"units/rvq_1: all .* labels are 0"):
        apply_codebook(manifest, dataclasses.replace(book, centroids=far), MFCCFeatures(), "rvq", STREAM, log=quiet)
    assert not (corpus / "units/rvq_0").exists()


def test_hash_tells_residual_codebooks_from_a_large_one():
    centroids = cloud(8, 3)
    cards = [
        codebooks.CodebookCard("mfcc", "", 0, "", 100.0, 16000, 3, 8 // n, 0, 30, 1.5, 10, 9, 0, codebooks=n)
        for n in (1, 2, 4)
    ]
    assert len({codebooks.Codebook(centroids, card).hash for card in cards}) == 3


def test_configuration():
    with pytest.raises(ValueError, match="codebooks = 0; give at least 1"):
        FitConfig(codebooks=0)
