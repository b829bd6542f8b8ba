"""Callers from data directories to a curve over layers and a control, on tones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tones import HOP, RATE, source, write_tones

from audiossl import registry
from audiossl.cli.main import main
from audiossl.data.manifest import Manifest
from audiossl.superb import layers
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.layers import Config, run, slower
from audiossl.superb.run import load_job

SMALL = {"costs": (1e-2, 1e-1), "folds": 4, "num_workers": 0, "batch_seconds": 4.0}


def score(data, out, config, *, deaf=(0, 2), **task):
    cls = registry.get("tasks", "caller")
    features, calls = source(deaf=deaf)
    job = Job("callers", "caller", cls, cls.Config(**task), config)
    return run(job, Evaluation(features, "tones", data, 3, "cpu", print), out), calls


def calls_of(count, *, callers=3):
    """Each caller has a tone; each recording one caller, so that a caller is in several."""
    return [
        ((k // 4 % callers,), {"utt2caller": f"c{k // 4 % callers}", "utt2kind": f"k{k % 2}"}) for k in range(count)
    ]


@pytest.fixture(scope="module")
def callers(tmp_path_factory):
    data = tmp_path_factory.mktemp("callers")
    write_tones(data / "all", calls_of(96), per_recording=4)
    return data


def test_a_curve_and_a_control(callers, tmp_path):
    found, calls = score(callers, tmp_path, Config(shuffles=4, **SMALL))
    assert (found.metric, found.selection, found.learning_rate) == (
        "unweighted_average_recall",
        "dev unweighted_average_recall",
        None,
    )
    curve = found.more["layers"]
    assert list(curve) == ["0", "1", "2"]
    assert found.more["layer"] == 1
    assert curve["1"]["unweighted_average_recall"] == found.values["unweighted_average_recall"] == 100.0
    assert found.values["auc"] == 100.0
    assert max(curve["0"]["unweighted_average_recall"], curve["2"]["unweighted_average_recall"]) < 60
    # Nothing to learn: a third of the callers, half of the pairs.
    assert found.values["unweighted_average_recall_shuffled"] == pytest.approx(100 / 3, abs=20)
    assert found.values["auc_shuffled"] == pytest.approx(50, abs=20)
    assert found.parameters == 3 * (2 * 4 + 1)
    assert sum(calls) == found.cost.forwards == 96
    assert found.more["utterances"] == {"train": 192, "dev": 96, "test": 96}
    assert found.more["heard_up_to_hz"] == 8000
    assert found.more["variant"].startswith("no fold divides what superb.groups 'recording' keeps together")
    again, calls = score(callers, tmp_path, Config(shuffles=4, **SMALL))
    assert calls == []
    assert (again.values, again.more) == (found.values, found.more)


def test_any_label_will_do(callers, tmp_path):
    found, _ = score(callers, tmp_path, Config(**SMALL), column="utt2kind")
    assert found.values["unweighted_average_recall"] < 75  # the tone does not tell it
    assert found.parameters == 2 * 9


def test_no_recording_is_in_training_and_in_test(callers, tmp_path, monkeypatch):
    seen = []
    ready = layers.make_ready
    monkeypatch.setattr(layers, "make_ready", lambda folds, *a: seen.append(folds) or ready(folds, *a))
    score(callers, tmp_path, Config(**SMALL))
    mixed, _ = score(callers, tmp_path, Config(groups="utterance", **SMALL))
    assert "variant" not in mixed.more  # as published
    manifest = Manifest.open(callers / "all")
    shared = [
        [
            {manifest.recording(int(row)) for row in fold.train.rows}
            & {manifest.recording(int(row)) for row in fold.test.rows}
            for fold in folds
        ]
        for folds in seen
    ]
    assert not any(shared[0])
    assert all(shared[1])


def test_a_caller_of_too_few_recordings_is_named(tmp_path):
    rows = [*calls_of(48), *[((0,), {"utt2caller": "rare"})] * 4]
    write_tones(tmp_path / "all", rows, per_recording=4)
    with pytest.raises(ValueError, match="all: rare is in too few of what superb.groups 'recording' keeps together"):
        score(tmp_path, tmp_path / "out", Config(**SMALL))
    assert not (tmp_path / "out").exists()
    score(tmp_path, tmp_path / "out", Config(groups="utterance", **SMALL))


def test_given_directories(tmp_path):
    for seed, (part, count) in enumerate({"train": 48, "dev": 24, "test": 24}.items()):
        write_tones(tmp_path / part, calls_of(count), seed)
    found, calls = score(tmp_path, tmp_path / "out", Config(**{**SMALL, "folds": 0}))
    assert sum(calls) == 96
    assert found.values["unweighted_average_recall"] == 100.0
    assert found.more["utterances"] == {"train": 48, "dev": 24, "test": 24}


def test_means_alone_and_layers_that_are_asked_for(callers, tmp_path):
    found, _ = score(callers, tmp_path, Config(deviations=False, layers=(1,), head="logistic", **SMALL))
    assert found.parameters == 3 * (4 + 1)
    assert list(found.more["layers"]) == ["1"]
    assert found.values["auc"] == 100.0
    with pytest.raises(ValueError, match=r"superb.layers: tones has layers 0 to 2, not 3"):
        score(callers, tmp_path, Config(layers=(3,), **SMALL))


def test_slower_play_lowers_every_tone(callers):
    features, _ = source()
    slow = slower(features, 2.0)
    assert (slow.sample_rate, slow.min_samples) == (2 * RATE, HOP)
    assert slow.digest != features.digest
    assert slower(features, 1.0) is features
    wave = Manifest.open(callers / "all").audio(0, sample_rate=slow.sample_rate)
    spectrum = np.abs(np.fft.rfft(wave[:8000]))
    assert np.fft.rfftfreq(8000, 1 / RATE)[spectrum.argmax()] == pytest.approx(200, abs=5)  # was 400 Hz


def test_the_verb(callers, tmp_path, capsys):
    words = [
        "superb",
        "callers",
        "--upstream",
        "fbank",
        "--task.column",
        "utt2caller",
        "--superb.num_workers",
        "0",
        "--device",
        "cpu",
        "--json",
    ]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--data", str(callers), "--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    shown = json.loads(out)
    assert shown["values"]["unweighted_average_recall"] > 90
    assert (tmp_path / "fbank" / "callers" / "results.json").is_file()


def test_the_recipe_is_what_the_defaults_are():
    job = load_job("callers")
    assert job.config == Config()
    assert job.task_config == job.task_class.Config()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"costs": ()}, "superb.costs"),
        ({"costs": (1.0, 1.0)}, "superb.costs"),
        ({"folds": 2}, "superb.folds"),
        ({"shuffles": 0}, "shuffles"),
        ({"slow_down": 0.0}, "slow_down"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
