"""What tasks hear of recordings: levels, silence, chunks; against the recordings cut by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from frame_runs import RATE, STRIDE, Upstream, train
from torch import nn

from audiossl.config import build
from audiossl.contracts import StepOutput
from audiossl.data.audio import AudioError, write_audio
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.trim import trim_silence
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.files import locked
from audiossl.nn.task import Task
from audiossl.superb.frames import Config
from audiossl.superb.hearing import CHUNK_START, Chunks, Heard, Hearing, seconds_left
from audiossl.superb.job import Job
from audiossl.tasks.diarization import Diarization
from audiossl.tasks.speaker_verification import SpeakerVerification

SECONDS = (1.0, 2.51, 1.013, 0.402)  # the third leaves 12 ms beyond a chunk of 1 s, the last is shorter than one
QUIET = 0.5  # s of silence in the middle of each, but of the last


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("heard")
    rng = np.random.default_rng(0)
    for part in ("train", "dev", "test"):
        rows = []
        for number, seconds in enumerate(SECONDS):
            waveform = (0.2 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)
            if seconds >= 1:
                waveform[4000 : 4000 + round(QUIET * RATE)] = 0
            path = root / f"{part}{number}.wav"
            write_audio(path, waveform, RATE)
            rows.append(CorpusUtterance(f"u{number}", f"u{number}", path, "u", columns={"utt2turns": "ann 0 0.1"}))
        write_data_dir(rows, root / part)
    return root


def test_what_the_protocol_has_tasks_hear():
    assert Hearing.of(SpeakerVerification.Config()) == Hearing(8.0, 0, -3.0, trim_silence=True, min_seconds=2.0)
    assert Hearing.of(Diarization.Config()) == Hearing(chunk_frames=2000)
    assert Hearing.of(SimpleNamespace()) == Hearing()


def test_level_and_silence(data, tmp_path):
    manifest = Manifest.open(data / "train")
    hearing = Hearing(gain_db=-3.0, trim_silence=True)
    loading = LoaderConfig(batch_utterances=2, num_workers=0)
    found = seconds_left(manifest, hearing, sample_rate=RATE, folder=tmp_path, loading=loading)
    whole = [manifest.audio(k, sample_rate=RATE) for k in range(len(manifest))]
    wanted = [trim_silence((waveform * 10 ** (-0.15)).astype(np.float32), RATE) for waveform in whole]
    np.testing.assert_allclose(found, [len(waveform) / RATE for waveform in wanted])
    assert np.all(found[:3] < np.array(SECONDS[:3]) - 0.3)
    heard = Heard(manifest, hearing, found)
    np.testing.assert_allclose(heard.audio(1, sample_rate=RATE), wanted[1], rtol=1e-6)
    np.testing.assert_allclose(
        heard.audio(1, sample_rate=RATE, start=1.0, seconds=0.25), wanted[1][RATE : RATE + 4000], rtol=1e-6
    )
    (kept,) = tmp_path.iterdir()
    np.save(kept, found + 1)  # it is measured once, and again for another level
    again = {"sample_rate": RATE, "folder": tmp_path, "loading": loading}
    np.testing.assert_array_equal(seconds_left(manifest, hearing, **again), found + 1)
    np.testing.assert_array_equal(seconds_left(manifest, replace(hearing, gain_db=-4.0), **again), found)


def test_runs_that_measure_the_same_wait_for_each_other(data, tmp_path):
    how = {"sample_rate": RATE, "folder": tmp_path, "loading": LoaderConfig(batch_utterances=2, num_workers=0)}
    measure = partial(seconds_left, Manifest.open(data / "train"), Hearing(trim_silence=True), **how)
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path):
            found = pool.submit(measure)
            with pytest.raises(TimeoutError):
                found.result(timeout=0.5)
        np.testing.assert_array_equal(found.result(timeout=60), measure())


def test_nothing_left_is_said(data):
    manifest = Manifest.open(data / "train")
    heard = Heard(manifest, Hearing(gain_db=-80.0, trim_silence=True), manifest.durations)
    with pytest.raises(AudioError, match="u0: nothing is left of it without its silence"):
        heard.audio(0, sample_rate=RATE)


def test_digests_tell_what_is_heard_apart():
    kinds = [Hearing(), Hearing(gain_db=-3.0), Hearing(trim_silence=True), Hearing(gain_db=-3.0, trim_silence=True)]
    assert len({hearing.digest("ab") for hearing in kinds}) == 4
    assert Hearing(crop_seconds=1.0, chunk_frames=5, min_seconds=1.0).digest("ab") == "ab"


def by_hand(manifest, frames, least):
    """(utterance, first frame, frames) of all chunks, one after the other."""
    for owner, seconds in enumerate(np.asarray(manifest.durations).tolist()):
        left, first = int(seconds * 50 + 1e-6), 0
        while left:
            count = left if left < frames + least else frames
            yield owner, first, count
            first, left = first + count, left - count


@pytest.mark.parametrize(("frames", "least"), [(50, 1), (50, 7), (200, 1), (20, 1)])
def test_chunks_follow_one_another(data, frames, least):
    manifest = Manifest.open(data / "train")
    chunks = Chunks.cut(manifest, frames, rate=50.0, least=least)
    wanted = list(by_hand(manifest, frames, least))
    assert list(zip(chunks.owners.tolist(), chunks.firsts.tolist(), chunks.counts.tolist(), strict=True)) == wanted
    for index, (owner, first, count) in enumerate(wanted):
        whole = manifest.audio(owner, sample_rate=RATE)
        np.testing.assert_array_equal(
            chunks.audio(index, sample_rate=RATE), whole[first * STRIDE : (first + count) * STRIDE]
        )
        assert chunks.ids[index] == f"u{owner}@{first}"
        assert float(chunks.column(CHUNK_START)[index]) == pytest.approx(first / 50)
        assert chunks.column("utt2turns")[index] == "ann 0 0.1"
    assert len(set(chunks.ids)) == len(chunks)


def test_what_is_said_of_chunks_is_put_together(data):
    chunks = Chunks.cut(Manifest.open(data / "train"), 50, rate=50.0, least=1)
    said = {
        name: np.arange(count)[:, None] + 100 * first
        for name, first, count in zip(chunks.ids, chunks.firsts, chunks.counts, strict=True)
    }
    said["u1@50"] = said["u1@50"][:-2]  # too few
    said["u1@100"] = np.concatenate([said["u1@100"], [[-1]]])  # and too many
    del said["u2@0"]  # a chunk that could not be read
    found = chunks.joined(said)
    assert sorted(found) == ["u0", "u1", "u3"]
    second = 100 * 50 + np.minimum(np.arange(50), 47)
    np.testing.assert_array_equal(found["u1"][:, 0], np.concatenate([np.arange(50), second, 100 * 100 + np.arange(25)]))


SEEN = []


class Listening(Task):
    """Notes what it is given."""

    @dataclass(frozen=True)
    class Config:
        chunk_frames: int = 0
        gain_db: float = 0.0
        trim_silence: bool = False
        min_seconds: float = 0.0
        column: str = "utt2turns"

    metric = ("frames", "max")
    needs = ("utt2turns",)

    def __init__(self, config):
        super().__init__()
        self.config, self.labels = config, _place
        self.weight = nn.Parameter(torch.ones(1))

    @classmethod
    def from_data(cls, shape, config, manifest):
        return cls(config)

    def loss(self, output, batch):
        SEEN.extend(zip(batch["utt_ids"], batch["start"].tolist(), output.lengths.tolist(), strict=True))
        return StepOutput(self.weight.sum(), torch.tensor(1.0))

    def predict(self, output):
        return [np.full((length, 1), length) for length in output.lengths.tolist()]

    def evaluate(self, predictions, manifest):
        assert sorted(predictions) == list(manifest.ids)
        return {"frames": float(sum(len(said) for said in predictions.values()))}


def _place(piece):
    return {"start": piece.start}


def listening(task=None, **settings):
    table = {"learning_rates": [1e-3], "steps": 12, "eval_every": 12, "num_workers": 0, "batch_utterances": 2}
    config = build(Config, table | settings, "superb")
    return Job("listening", "listening", Listening, Listening.Config(**(task or {})), config)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_training_and_scoring_by_chunks(data, tmp_path, cache_gb):
    SEEN.clear()
    upstream = Upstream()
    (score,) = train(listening({"chunk_frames": 50}, cache_gb=cache_gb), data, tmp_path, upstream)
    wanted = {
        (f"u{owner}@{first}", first / 50, count)
        for owner, first, count in by_hand(Manifest.open(data / "train"), 50, 1)
    }
    assert {(name, round(start, 6), count) for name, start, count in SEEN} == wanted
    assert score.values["frames"] == sum(int(seconds * 50 + 1e-6) for seconds in SECONDS)
    if cache_gb:
        assert score.cost.forwards == 3 * len(wanted)


def test_training_without_silence_and_what_is_short(data, tmp_path):
    SEEN.clear()
    log = []
    task = {"trim_silence": True, "gain_db": -3.0, "min_seconds": 0.5}
    (score,) = train(listening(task, cache_gb=1.0), data, tmp_path, log=log)
    manifest = Manifest.open(data / "train")
    left = [len(trim_silence(manifest.audio(k, sample_rate=RATE), RATE)) for k in range(4)]
    assert {name: count for name, _, count in SEEN} == {f"u{k}": left[k] // STRIDE for k in range(3)}
    assert [line for line in log if "left out" in line] == [
        f"{data / 'train'}: 1 recordings of less than 0.5 s are left out"
    ]
    assert (
        score.values["frames"] < sum(int(seconds * 50) for seconds in SECONDS) - 3 * 15
    )  # test has all four, without silence
    with pytest.raises(ValueError, match="no recording lasts 9 s; give longer ones, or set task.min_seconds"):
        train(listening({"min_seconds": 9.0}), data, tmp_path / "none")


def test_tasks_that_hear_alike_share_a_stream(data, tmp_path):
    other = replace(listening({"gain_db": -3.0}), name="other")
    with pytest.raises(ValueError, match=r"task\.gain_db: listening and other differ; train them one by one"):
        train([listening(), other], data, tmp_path)
