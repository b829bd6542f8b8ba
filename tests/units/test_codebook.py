"""Codebooks on disk: the same bytes come back, and what is damaged is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from audiossl.units import codebook as codebooks
from audiossl.units.codebook import Codebook, CodebookCard
from audiossl.units.features import MFCCFeatures, make_features


@pytest.fixture
def book():
    centroids = np.random.default_rng(0).standard_normal((6, 39)).astype(np.float32)
    card = CodebookCard("mfcc", "", 0, "", 100.0, 16000, 39, 6, 0, 30, 1.5, 1000, 9, 0, full_scale=1.0)
    return Codebook(centroids, card)


def test_round_trip(book, tmp_path):
    assert not codebooks.exists(tmp_path)
    codebooks.save(book, tmp_path)
    again = codebooks.load(tmp_path)
    assert codebooks.exists(tmp_path)
    assert again.card == book.card
    assert np.array_equal(again.centroids, book.centroids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codebook.json", "codebook.safetensors"]


def test_hash_is_of_the_centroids_and_their_space(book):
    moved = Codebook(book.centroids + np.float32(1e-3), book.card)
    renamed = Codebook(book.centroids, dataclasses.replace(book.card, encoder="elsewhere", inertia=2.0))
    other_layer = Codebook(book.centroids, dataclasses.replace(book.card, layer=6))
    former = Codebook(book.centroids, dataclasses.replace(book.card, full_scale=None))
    assert len({book.hash, moved.hash, other_layer.hash, former.hash}) == 4
    assert renamed.hash == book.hash


def test_missing(tmp_path):
    with pytest.raises(ValueError, match=r"codebook\.json: no such file; give a folder written by"):
        codebooks.load(tmp_path)


def test_centroids_missing_or_damaged(book, tmp_path):
    codebooks.save(book, tmp_path)
    path = tmp_path / "codebook.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"codebook\.safetensors: cannot be read"):
        codebooks.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"codebook\.safetensors: cannot be read"):
        codebooks.load(tmp_path)


def test_mixed_up(book, tmp_path):
    other = Codebook(book.centroids[::-1].copy(), book.card)
    codebooks.save(book, tmp_path / "one")
    codebooks.save(other, tmp_path / "two")
    (tmp_path / "two/codebook.safetensors").replace(tmp_path / "one/codebook.safetensors")
    with pytest.raises(ValueError, match="mixed up"):
        codebooks.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": 7}, r"\(6, 39\), 7 x 39"), ({"sizes": 6}, "unknown key 'sizes'"), ({"rate": "fast"}, "not a number")],
)
def test_wrong_card(book, tmp_path, change, message):
    codebooks.save(book, tmp_path)
    path = tmp_path / "codebook.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        codebooks.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_card_is_no_json_object(tmp_path, text):
    (tmp_path / "codebook.json").write_text(text)
    with pytest.raises(ValueError, match=r"codebook\.json(:1)?: not"):
        codebooks.load(tmp_path)


def test_other_features_are_refused(book):
    book.check_features(MFCCFeatures())
    wrong = Codebook(book.centroids, dataclasses.replace(book.card, encoder="exp/hubert", encoder_hash="abc"))
    with pytest.raises(ValueError, match="exp/hubert: its encoder_hash is"):
        wrong.check_features(MFCCFeatures())
    with pytest.raises(ValueError, match=r"mfcc: its full_scale is None, but the codebook was fitted with 1\.0"):
        book.check_features(MFCCFeatures(None))


def test_a_card_from_before_the_scale_of_mfcc_is_read(book, tmp_path):
    former = Codebook(book.centroids, dataclasses.replace(book.card, full_scale=None))
    codebooks.save(former, tmp_path)
    assert "full_scale" not in json.loads((tmp_path / "codebook.json").read_text())
    again = codebooks.load(tmp_path)
    assert again.hash == former.hash
    again.check_features(make_features("mfcc", "", 0, full_scale=again.card.full_scale))
