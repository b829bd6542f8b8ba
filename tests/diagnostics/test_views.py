"""Views are recordings of their own: the same for every reader, named after how they were made."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.data.audio import AudioError, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.views import ViewConfig, Views


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("views")
    rng, rows = np.random.default_rng(0), []
    for name, length in (("a", 4000), ("b", 6000)):
        write_audio(root / f"{name}.wav", 0.1 * rng.standard_normal(length).astype(np.float32), 16_000)
        rows.append(CorpusUtterance(name, name, root / f"{name}.wav", name))
    write_data_dir(rows, root / "data")
    return Manifest.open(root / "data")


def test_views_are_functions_of_seed_utterance_and_number(manifest):
    views, again = (Views(manifest, ViewConfig(), 3, 0) for _ in range(2))
    assert len(views) == 6
    waveforms = [views.audio(index, sample_rate=16_000) for index in range(6)]
    assert [len(waveform) for waveform in waveforms] == [4000] * 3 + [6000] * 3
    for index in (4, 0):
        np.testing.assert_array_equal(again.audio(index, sample_rate=16_000), waveforms[index])
    assert np.abs(waveforms[0] - waveforms[1]).max() > 1e-3
    assert np.abs(waveforms[0] - Views(manifest, ViewConfig(), 3, 1).audio(0, sample_rate=16_000)).max() > 1e-3
    np.testing.assert_array_equal(views.audio(5, sample_rate=16_000, start=0.1, seconds=0.05), waveforms[5][1600:2400])


def test_crops_are_pieces_of_the_utterance(manifest):
    config = ViewConfig(crop=0.5, reverb_probability=0.0, gain_probability=0.0)
    views = Views(manifest, config, 2, 0)
    np.testing.assert_allclose(views.durations, [0.125, 0.125, 0.1875, 0.1875])
    whole = manifest.audio(1, sample_rate=16_000)
    starts = []
    for number in (2, 3):
        piece = views.audio(number, sample_rate=16_000)
        assert len(piece) == 3000
        starts.append(int(np.flatnonzero(np.isclose(np.correlate(whole, piece), piece @ piece))[0]))
        np.testing.assert_array_equal(whole[starts[-1] : starts[-1] + 3000], piece)
    assert starts[0] != starts[1]


def test_a_silent_piece_is_a_view_but_a_silent_recording_has_none(tmp_path):
    waveform = np.zeros((2, 8000), np.float32)
    waveform[0, :200] = 0.1
    for name, samples in zip("ab", waveform, strict=True):
        write_audio(tmp_path / f"{name}.wav", samples, 16_000)
    write_data_dir([CorpusUtterance(k, k, tmp_path / f"{k}.wav", k) for k in "ab"], tmp_path / "data")
    views = Views(Manifest.open(tmp_path / "data"), ViewConfig(crop=0.1, num_rooms=2), 4, 0)
    pieces = [views.audio(number, sample_rate=16_000) for number in range(4)]
    assert not all(piece.any() for piece in pieces)
    assert all(len(piece) == 800 for piece in pieces)
    with pytest.raises(AudioError, match="silent"):
        views.audio(4, sample_rate=16_000)


def test_ids_say_how_views_were_made(manifest):
    kinds = [
        Views(manifest, ViewConfig(), 2, 0),
        Views(manifest, ViewConfig(), 2, 1),
        Views(manifest, ViewConfig(crop=0.5), 2, 0),
    ]
    assert len({tuple(views.ids) for views in kinds}) == 3
    assert [name.split("/")[::2] for name in kinds[0].ids] == [["a", "0"], ["a", "1"], ["b", "0"], ["b", "1"]]
    with pytest.raises(ValueError, match="no such column"):
        kinds[0].column("utt2spk")


def test_views_that_differ_in_nothing():
    with pytest.raises(ValueError, match="all views alike"):
        ViewConfig(reverb_probability=0.0, gain_probability=0.0)
    with pytest.raises(ValueError, match=r"views\.crop is 0"):
        ViewConfig(crop=0.0)
