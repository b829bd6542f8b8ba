"""Verification, diarisation and search from a published layout to a score, by their recipes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audiossl import registry
from audiossl.cli.main import main
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


def test_verification(tmp_path, capsys):
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
    for kind, values in (("", score.values), ("official.", score.official)):
        place = tmp_path / "out" / "asv" / f"test.{kind}scores"
        trials = tmp_path / "data" / "superb_asv" / "test" / "trials"
        capsys.readouterr()
        with pytest.raises(SystemExit, match="0"):
            main(["verify", "--trials", str(trials), "--scores", str(place), "--json"])
        assert json.loads(capsys.readouterr().out)["eer"] == pytest.approx(values["eer"])


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
    turns = dict(line.split(maxsplit=1) for line in (tmp_path / "data" / "test" / "utt2turns").read_text().splitlines())
    for kind, der in (("", score.values["der"]), ("official.", score.official["der"])):
        assert rttm_der(tmp_path / "out" / "sd" / f"test.{kind}rttm", turns) == pytest.approx(der, abs=0.02)


def rttm_der(path, turns):
    """DER in percent of two speakers, on a grid of 0.1 ms."""
    said = [line.split() for line in path.read_text().splitlines()]
    assert {(words[0], words[2], len(words)) for words in said} == {("SPEAKER", "1", 10)}
    wrong = total = 0
    for utterance, value in turns.items():
        words = value.split()
        wanted = [(words[k], float(words[k + 1]), float(words[k + 2])) for k in range(0, len(words), 3)]
        found = [(row[7], float(row[3]), float(row[3]) + float(row[4])) for row in said if row[1] == utterance]
        grids = []
        for spans in (wanted, found):
            names = sorted({name for name, *_ in spans})
            grid = np.zeros((2, round(1e4 * max(end for *_, end in wanted + found))), bool)
            for name, start, end in spans:
                grid[names.index(name), round(1e4 * start) : round(1e4 * end)] = True
            grids.append(grid)
        truth, guess = grids
        right = max((truth & guess[list(order)]).sum() for order in ((0, 1), (1, 0)))
        wrong += np.maximum(truth.sum(axis=0), guess.sum(axis=0)).sum() - right
        total += truth.sum()
    return 100 * wrong / total


def test_search(tmp_path):
    score = scored(tmp_path, "quesst14", "qbe", superb={"num_workers": 0})
    assert score.metric == "mtwv"
    assert 0 <= score.values["mtwv"] <= score.values["mtwv_searched"] <= 1
    assert score.more["layer"] == 0
