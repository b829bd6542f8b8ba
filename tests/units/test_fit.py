"""The fit: uniform sampling, the same bytes on every run, memory that does not grow with the corpus."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.units import fit
from audiossl.units.features import MFCCFeatures
from audiossl.units.fit import FitConfig, Reservoir, choose_utterances, fit_codebook
from audiossl.units.stream import FrameBatch, StreamConfig

STREAM = StreamConfig(5.0, 0)
CONFIG = FitConfig(clusters=8, iterations=10)


def quiet(line):
    del line


def test_codebook_of_a_corpus(shared_corpus):
    lines = []
    book = fit_codebook(Manifest.open(shared_corpus), MFCCFeatures(), CONFIG, STREAM, log=lines.append)
    card = book.card
    assert book.centroids.shape == (8, 39)
    assert (card.feature, card.rate, card.sample_rate, card.size, card.dim) == ("mfcc", 100.0, 16000, 8, 39)
    assert (card.utterances, card.unused, card.seed) == (12, 0, 0)
    assert lines == [f"k-means: 8 clusters on {card.frames} of {card.frames} frames, 12 utterances"]


def test_same_bytes_on_every_run_and_with_workers(shared_corpus):
    config = FitConfig(clusters=8, iterations=5, fraction=0.7, max_frames=300, seed=5)
    books = [
        fit_codebook(Manifest.open(shared_corpus), MFCCFeatures(), config, StreamConfig(5.0, workers), log=quiet)
        for workers in (0, 0, 2)
    ]
    assert len({book.centroids.tobytes() for book in books}) == 1
    assert len({book.hash for book in books}) == 1
    assert (books[0].card.frames, books[0].card.utterances) == (300, 8)


def test_few_frames_are_a_warning(shared_corpus):
    lines = []
    config = FitConfig(clusters=10, iterations=2, max_frames=399)
    fit_codebook(Manifest.open(shared_corpus), MFCCFeatures(), config, STREAM, log=lines.append)
    assert any("399 frames are few for 10 clusters" in line for line in lines)


def test_reservoir_is_algorithm_r():
    """One frame after the other, with the same draws."""
    stream = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
    reservoir = Reservoir(40, 3, np.random.default_rng(9))
    for begin, end in ((0, 25), (25, 60), (60, 60), (60, 300), (300, 500)):
        reservoir.add(stream[begin:end])
    rng, slow = np.random.default_rng(9), []
    for begin, end in ((40, 60), (60, 300), (300, 500)):
        draws = rng.integers(0, np.arange(begin, end), endpoint=True)
        slow += list(zip(range(begin, end), draws.tolist(), strict=True))
    expected = stream[:40].copy()
    for number, slot in slow:
        if slot < 40:
            expected[slot] = stream[number]
    assert reservoir.seen == 500
    assert np.array_equal(reservoir.frames, expected)


def test_reservoir_is_uniform():
    """Each of 60 frames is kept with probability 10 / 60, early or late: chi-square over 3000 draws, 59 degrees of freedom."""
    kept = np.zeros(60)
    frames = np.arange(60, dtype=np.float32)[:, None]
    for seed in range(3000):
        reservoir = Reservoir(10, 1, np.random.default_rng(seed))
        for begin in range(0, 60, 7):
            reservoir.add(frames[begin : begin + 7])
        kept[reservoir.frames[:, 0].astype(int)] += 1
    assert kept.sum() == 30000
    assert np.square(kept - 500).sum() / 500 < 100  # P < 1e-3, and the seeds are fixed


def test_reservoir_that_is_not_filled():
    reservoir = Reservoir(10, 2, np.random.default_rng(0))
    reservoir.add(np.ones((3, 2), dtype=np.float32))
    assert reservoir.frames.shape == (3, 2)


@pytest.mark.parametrize(
    ("hours", "fraction", "share"),
    [(50, None, 1.0), (400, None, 0.25), (5000, None, 0.1), (50, 0.3, 0.3), (5000, 1.0, 1.0)],
)
def test_share_of_utterances(hours, fraction, share):
    durations = np.full(4000, hours * 3600 / 4000)
    chosen = choose_utterances(durations, fraction, np.random.default_rng(0))
    assert len(chosen) == round(4000 * share)
    assert (np.diff(chosen) > 0).all()


def test_no_more_utterances_than_the_sample_needs():
    durations = np.random.default_rng(1).uniform(5, 15, 4000)
    all_drawn = choose_utterances(durations, 0.5, np.random.default_rng(0))
    few = choose_utterances(durations, 0.5, np.random.default_rng(0), 3600.0)
    assert set(few) < set(all_drawn)
    assert 3600 <= durations[few].sum() < 3615
    assert (np.diff(few) > 0).all()
    enough = choose_utterances(durations, 0.5, np.random.default_rng(0), 1e6)
    assert enough.tolist() == all_drawn.tolist()


def test_a_small_sample_is_of_few_utterances(shared_corpus, monkeypatch):
    monkeypatch.setattr(fit, "FRAMES_PER_KEPT", 2)
    lines, config = [], FitConfig(clusters=8, iterations=2, max_frames=320)
    book = fit_codebook(Manifest.open(shared_corpus), MFCCFeatures(), config, STREAM, log=lines.append)
    assert book.card.frames == 320
    assert 1 < book.card.utterances < 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"clusters": 1},
        {"fraction": 0.0},
        {"fraction": 1.5},
        {"iterations": 0},
        {"redo": 0},
        {"max_frames": 99},
        {"seed": -1},
    ],
)
def test_wrong_configuration(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} = "):
        FitConfig(**wrong)


def peak_of(num_batches, monkeypatch):
    """Peak of Python's and NumPy's memory while a codebook is fitted to a made-up stream."""

    def stream(manifest, features, config, *, label, log):
        for number in range(num_batches):
            frames = np.random.default_rng(number).standard_normal((2000, 39)).astype(np.float32)
            yield FrameBatch([f"u{number}"], torch.from_numpy(frames), np.array([2000]))

    class Corpus:
        path, durations = "data", np.full(num_batches, 20.0)

        def __len__(self):
            return num_batches

    monkeypatch.setattr(fit, "stream_frames", stream)
    monkeypatch.setattr(fit, "FRAMES_PER_KEPT", 10**6)
    tracemalloc.start()
    try:
        fit_codebook(
            Corpus(), MFCCFeatures(), FitConfig(clusters=4, max_frames=10_000, iterations=1), STREAM, log=quiet
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(monkeypatch):
    peak_of(10, monkeypatch)
    short, long = peak_of(10, monkeypatch), peak_of(300, monkeypatch)
    assert long < 1.05 * short  # 300 batches would be 94 MB


PROGRAM = """
import resource, sys
from audiossl.data.manifest import Manifest
from audiossl.units.features import MFCCFeatures
from audiossl.units.fit import FitConfig, fit_codebook
from audiossl.units import fit
from audiossl.units.stream import StreamConfig
from pathlib import Path
fit.FRAMES_PER_KEPT = 10**6
config = FitConfig(clusters=8, iterations=2, max_frames=5000)
fit_codebook(Manifest.open(Path(sys.argv[1])), MFCCFeatures(), config, StreamConfig(60.0, 0), log=lambda line: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_resident_memory_does_not_grow_with_the_corpus(new_corpus, tmp_path):
    new_corpus(tmp_path, num_utterances=40, seconds=(1.9, 2.0))
    peaks = []
    for number in (800, 4000):
        names = [(f"s-{n:04d}", tmp_path / f"audio{n % 40:02d}.wav") for n in range(number)]
        write_data_dir((CorpusUtterance(name, name, path, "s") for name, path in names), tmp_path / str(number))
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / str(number))]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    # kB. The frames of the longer corpus are 120 MB, its audio 500 MB; allocators differ by some 30 MB from run to run.
    assert peaks[1] - peaks[0] < 60_000
