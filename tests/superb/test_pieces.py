"""Crops that are drawn beforehand: where they are, what is heard, and what the cache tells apart."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.pooled_cache import data_digest
from audiossl.superb.pieces import Pieces, draw_crops

RATE = 16_000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Ramps of 0.5, 1, 1.5 and 2 s, each sample of which says where it is; and digital silence of 1 s."""
    folder, rows = tmp_path_factory.mktemp("pieces"), []
    for number in range(5):
        count = RATE * (number + 1) // 2 if number < 4 else RATE
        write_audio(folder / f"{number}.wav", np.linspace(-0.5, 0.5, count) * (number < 4), RATE)
        rows.append(CorpusUtterance(f"s-{number}", f"s-{number}", folder / f"{number}.wav", "s", columns={}))
    write_data_dir(rows, folder / "data")
    return Manifest.open(folder / "data")


def test_crops_lie_inside_and_short_utterances_come_once(manifest):
    pieces, places = draw_crops(manifest, 3, 1.2, seed=0)
    assert places.shape == (5, 3)
    np.testing.assert_array_equal(places[:2], [[0] * 3, [1] * 3])
    np.testing.assert_array_equal(places[2:], [[2, 3, 4], [5, 6, 7], [8] * 3])
    np.testing.assert_array_equal(pieces.owners[places], np.arange(5)[:, None].repeat(3, axis=1))
    np.testing.assert_allclose(pieces.durations, np.minimum(manifest.durations[pieces.owners], 1.2))
    assert ((pieces.starts >= 0) & (pieces.starts + pieces.durations <= manifest.durations[pieces.owners])).all()
    assert len(np.unique(pieces.starts[2:8])) == 6


def test_audio_is_that_of_the_crop_also_after_a_trip_to_a_worker(manifest):
    pieces, _ = draw_crops(manifest, 2, 1.2, seed=1)
    for index in range(len(pieces)):
        owner, first = int(pieces.owners[index]), round(pieces.starts[index] * RATE)
        whole = manifest.audio(owner, sample_rate=RATE, allow_silent=True)
        wanted = whole[first : first + round(1.2 * RATE)]
        found = pickle.loads(pickle.dumps(pieces)).audio(index, sample_rate=RATE)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        part = pieces.audio(index, sample_rate=RATE, start=0.25, seconds=0.2)
        np.testing.assert_allclose(part, wanted[RATE // 4 :][: RATE // 5], atol=2e-4)
    inside = pieces.audio(2, sample_rate=RATE, start=0.25, seconds=5.0)
    assert len(inside) == round(0.95 * RATE)  # no further than the crop


def test_whole_utterances_and_silence_are_read(manifest):
    pieces = Pieces.whole(manifest)
    assert list(pieces.ids) == list(manifest.ids)
    np.testing.assert_array_equal(pieces.durations, manifest.durations)
    assert not pieces.audio(4, sample_rate=RATE).any()
    with pytest.raises(ValueError, match="utt2spk: pieces have no columns"):
        pieces.column("utt2spk")


def test_other_crops_have_another_digest(manifest):
    drawn = {seed: data_digest(draw_crops(manifest, 2, 1.2, seed=seed)[0]) for seed in (0, 1)}
    assert drawn[0] == data_digest(draw_crops(manifest, 2, 1.2, seed=0)[0])
    assert len({*drawn.values(), data_digest(Pieces.whole(manifest))}) == 3
    assert data_digest(Pieces.whole(manifest)) == data_digest(manifest)
