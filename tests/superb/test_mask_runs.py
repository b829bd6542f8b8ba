"""Separation by the frames runner: targets of cached utterances, scores batch by batch, and settings that do not change the heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from frame_runs import RATE, Upstream, assert_same_heads, checkpoint, job, train

from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.superb.answers import Answers
from audiossl.tasks.separation import Separation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for split, size in (("train", 6), ("dev", 5), ("test", 3)):
        rows = []
        for number in range(size):
            paths = [root / f"{split}{number}-{part}.wav" for part in ("mixture", "s1", "s2")]
            sources = 0.1 * rng.standard_normal((2, int(rng.integers(8000, 12_000))))
            for path, wave in zip(paths, (sources.sum(axis=0), *sources), strict=True):
                write_audio(path, wave, RATE)
            columns = {"utt2source1": str(paths[1]), "utt2source2": str(paths[2])}
            rows.append(CorpusUtterance(f"{split}{number}", f"{split}{number}", paths[0], split, columns=columns))
        write_data_dir(rows, root / split)
    return root


def separate(**settings):
    return job("ss", "separation", **settings)


def test_cached_frames_train_what_recomputed_ones_do(data, tmp_path):
    plain = train(separate(), data, tmp_path / "plain")[0]
    cached = train(separate(cache_gb=1.0), data, tmp_path / "cached")[0]
    assert_same_heads(checkpoint(tmp_path / "cached", "ss")["heads"], checkpoint(tmp_path / "plain", "ss")["heads"])
    assert cached.values == plain.values
    assert cached.cost.forwards < plain.cost.forwards
    assert plain.metric == "si_sdr_improvement"


def test_scores_batch_by_batch_are_those_of_all_at_once(data):
    torch.manual_seed(0)
    upstream = Upstream()
    task = Separation.from_data(upstream.source.shape, Separation.Config.tiny(), None).eval()
    dev = Manifest.open(data / "dev")
    waves = [torch.from_numpy(dev.audio(k, sample_rate=RATE))[None] for k in range(len(dev))]
    outputs = [upstream(wave, torch.tensor([wave.shape[1]])) for wave in waves]

    class Head:
        def __init__(self, task):
            self.task, self.calls = task, 0

        def predict(self, output):
            return self.task.predict(output)

    with torch.no_grad():
        answers = Answers(Head(task), dev)
        for name, output in zip(dev.ids, outputs, strict=True):
            answers.take([name], output)
        assert answers._kept == {}
        whole = task.evaluate({name: task.predict(o)[0] for name, o in zip(dev.ids, outputs, strict=True)}, dev)
    assert answers.values() == pytest.approx(whole)
    lines = [line.split() for line in answers.lines({})["scores"]]
    assert [line[0] for line in lines] == sorted(dev.ids)
    assert {line[1] for line in lines} == {"si_sdr_improvement"}
    assert np.mean([float(line[2]) for line in lines]) == pytest.approx(whole["si_sdr_improvement"])
    with pytest.raises(ValueError, match="dev: no recording can be used"):
        Answers(Head(task), dev).values()


def test_processes_that_measure_may_change_when_heads_are_resumed(data, tmp_path):
    train(separate(), data, tmp_path)
    given = separate()
    train(replace(given, task_config=replace(given.task_config, num_workers=1)), data, tmp_path)
    with pytest.raises(ValueError, match=r"was trained with task.dropout 0.5, now 0.1"):
        train(replace(given, task_config=replace(given.task_config, dropout=0.1)), data, tmp_path)


def test_epsilon_reaches_the_optimiser(data, tmp_path):
    train(separate(epsilon=1e-3), data, tmp_path)
    (state,) = checkpoint(tmp_path, "ss")["heads"]
    assert state["optimizer"]["param_groups"][0]["eps"] == 1e-3


def test_a_further_metric_trains_nothing_again(data, tmp_path, monkeypatch):
    first = train(separate(), data, tmp_path)[0]
    (path,) = (tmp_path / "ss").glob("heads-*/heads.pt")
    state = torch.load(path, weights_only=True)
    state["facts"]["task.metrics"] = ["si_sdr_improvement"]  # as it was written once
    torch.save(state, path)
    monkeypatch.setattr("audiossl.tasks._mask_head.check_metrics", lambda *_: None)
    monkeypatch.setattr("audiossl.tasks._mask_scores.stoi", lambda *_: 50.0)
    given, upstream = separate(), Upstream()
    wider = replace(given.task_config, metrics=("si_sdr_improvement", "stoi"))
    later = train(replace(given, task_config=wider), data, tmp_path, upstream)[0]
    assert upstream.calls == 1  # only scored again
    assert later.values == first.values | {"stoi": 50.0}
