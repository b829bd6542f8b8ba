"""Verification, diarisation and search from a published layout to a score, by their recipes."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import write_audio
from audiossl.diagnostics.results import read_results
from audiossl.diagnostics.sources import fbank_source
from audiossl.superb.heads import TaskHeads
from audiossl.superb.job import Evaluation
from audiossl.superb.run import load_job, run_jobs


def scored(tmp_path, corpus, name, *, part="", **overrides):
    module = registry.get("data_prep", corpus)
    (tmp_path / "published").mkdir()
    module.fake(tmp_path / "published")
    module.prepare(tmp_path / "published", tmp_path / "data")
    job = load_job(name, overrides)
    evaluation = Evaluation(fbank_source(), "fbank", tmp_path / "data" / part, 0, "cpu", print)
    (score,) = run_jobs([job], evaluation, tmp_path / "out")
    assert {row.name for row in read_results(tmp_path / "out" / name)} >= {f"superb {name} {score.metric}"}
    return score


def test_verification(tmp_path):
    short = {"steps": 4, "eval_every": 2, "accumulate": 2, "learning_rates": [1e-3, 1e-4], "num_workers": 0}
    task = {"hidden_dim": 16, "pooled_dim": 24, "crop_seconds": 0.5, "min_seconds": 0.5}
    score = scored(tmp_path, "voxceleb1", "asv", part="superb_asv", superb=short, task=task)
    assert score.metric == "eer"
    assert score.official["eer"] <= score.values["eer"] <= 100
    assert score.official_choice.learning_rate in (1e-3, 1e-4)
    assert score.official_choice.step in (2, 4)
    (row,) = [row for row in read_results(tmp_path / "out" / "asv") if row.name == "superb asv eer (official)"]
    assert (row.more["learning_rate"], row.more["step"]) == (
        score.official_choice.learning_rate,
        score.official_choice.step,
    )
    assert set(score.dev) == {1e-3, 1e-4}


@pytest.mark.parametrize(
    ("part", "waveform", "problem"),
    [
        ("test", np.full(32_000, 1e-4), "nothing is left of it without its silence"),
        ("dev", 0.1 * np.random.default_rng(0).standard_normal(2400), "s is too short for 16 frames"),
    ],
)
def test_recordings_of_trials_are_heard_before_training(tmp_path, monkeypatch, part, waveform, problem):
    module = registry.get("data_prep", "voxceleb1")
    (tmp_path / "published").mkdir()
    module.fake(tmp_path / "published")
    module.prepare(tmp_path / "published", tmp_path / "data")
    data = tmp_path / "data" / "superb_asv"
    name = next(word for word in (data / part / "trials").read_text().split() if word.startswith("id"))
    path = dict(line.split(maxsplit=1) for line in (data / part / "wav.scp").read_text().splitlines())[name]
    write_audio(path, waveform.astype(np.float32), 16_000)
    monkeypatch.setattr(TaskHeads, "take", lambda *_: pytest.fail("was trained"))
    job = load_job("asv", {"superb": {"num_workers": 0}, "task": {"min_seconds": 0.0}})
    evaluation = Evaluation(fbank_source(), "fbank", data, 0, "cpu", print)
    with pytest.raises(
        ValueError, match=rf"{part}/trials:\d+: '{name}' has no embedding \(.*{problem}.*\); mend its recording"
    ):
        run_jobs([job], evaluation, tmp_path / "out")


def test_diarization(tmp_path):
    # Turns are the same in all parts of the imitation, by time alone: they can be learnt.
    long = {"steps": 30, "eval_every": 10, "accumulate": 1, "learning_rates": [1e-2], "num_workers": 0}
    score = scored(tmp_path, "libri2mix", "sd", superb=long, task={"hidden_dim": 32, "chunk_frames": 200})
    assert score.values["accuracy"] > 60
    assert 0 < min(value for name, value in score.values.items() if name.startswith("der_")) < 90
    assert score.selection == "dev accuracy"
    (row,) = [row for row in read_results(tmp_path / "out" / "sd") if row.name == "superb sd der"]
    assert row.value == score.values[f"der_{row.more['threshold']}_{row.more['median']}"]


def test_search(tmp_path):
    score = scored(tmp_path, "quesst14", "qbe", superb={"num_workers": 0})
    assert score.metric == "mtwv"
    assert 0 <= score.values["mtwv"] <= score.values["mtwv_searched"] <= 1
    assert score.more["layer"] == 0
