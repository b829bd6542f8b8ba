"""Callers from data directories to a curve over layers and a control, on tones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tones import HOP, RATE, source, write_tones

from audiossl import registry
from audiossl.cli.main import main
from audiossl.cli.superb import _spoken
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.linear_models import NoMinimumError
from audiossl.diagnostics.linear_probe import Split
from audiossl.diagnostics.results import read_results
from audiossl.superb import layers
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.layers import Config, at_full_scale, run, slower
from audiossl.superb.parts import Ready
from audiossl.superb.run import load_job
from audiossl.tasks.caller import Caller

SMALL = {"costs": (1e-2, 1e-1), "folds": 4, "num_workers": 0, "batch_seconds": 4.0}


def score(data, out, config, *, deaf=(0, 2), **task):
    cls = registry.get("tasks", "caller")
    features, calls = source(deaf=deaf)
    job = Job("callers", "caller", cls, cls.Config(**task), config)
    return run(job, Evaluation(features, "tones", data, 3, "cpu", print), out / "task"), calls


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
        "dev unweighted_average_recall of each fold",
        None,
    )
    curve = found.more["layers"]
    assert list(curve) == ["0", "1", "2"]
    assert found.more["layer"] == "1"
    assert [one["layer"] for one in found.more["chosen"]] == [1] * 4
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
    assert found.more["intervals"]["auc"] == (100.0, 100.0)
    assert "95 % intervals      unweighted_average_recall 100.00 to 100.00, auc 100.00 to 100.00" in _spoken(found)
    long = _spoken(replace(found, task="marble_nsynth_instrument"))
    assert long.startswith("marble_nsynth_instrument unweighted_average_recall 100.00 %")
    assert "\nlearning rate            none" in long
    assert found.more["variant"].startswith("no fold divides what superb.groups 'recording' keeps together")
    again, calls = score(callers, tmp_path, Config(shuffles=4, **SMALL))
    assert calls == []
    assert (again.values, again.more) == (found.values, found.more)


def ready_of(x, labels, parts, count):
    """Folds of features (utterance, layer, dim): part k is test, the next one dev."""
    cut = [np.flatnonzero(parts == k) for k in range(count)]
    folds = []
    for k in range(count):
        rows = [
            np.concatenate([cut[j] for j in range(count) if j not in {k, (k + 1) % count}]),
            cut[(k + 1) % count],
            cut[k],
        ]
        folds.append(Ready(str(k), *(Split(x, own, labels[own]) for own in rows)))
    return folds


def searched(x, labels, parts, count, config, classes=5):
    """What each fold chose, and what each shuffle did."""
    task = Caller(Caller.Config(), tuple("abcdefghij"[:classes]))
    ready = ready_of(x, labels, parts, count)
    found = [layers._search(ready, layer, task, config, 0, "cpu") for layer in range(x.shape[1])]
    return [layers._best_layers([both[k] for both in found]) for k in (0, 1)]


def noise(seed, count=150, layer_count=13):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, layer_count, 6)).astype(np.float32)
    return x, rng.permutation(np.arange(count) % 5), rng.permutation(np.arange(count) % 4)


QUICK = Config(costs=(1e-4, 1e-2), class_weights=("none",), folds=4)


def test_what_a_fold_chooses_does_not_depend_on_what_it_is_tested_on():
    x, labels, parts = noise(0)
    chosen = [one.setting for one in searched(x, labels, parts, 4, QUICK)[0]]
    assert len({one["layer"] for one in chosen}) > 1
    for fold in range(4):
        other = labels.copy()
        other[parts == fold] = np.random.default_rng(fold).permutation(labels[parts == fold])
        assert searched(x, other, parts, 4, QUICK)[0][fold].setting == chosen[fold]


def test_nothing_is_learnt_from_noise():
    drawn = [searched(*noise(seed), 4, replace(QUICK, costs=(1e-3,))) for seed in range(1, 9)]
    for which in (0, 1):
        recalls = [one.tested["unweighted_average_recall"] for both in drawn for one in both[which]]
        assert np.mean(recalls) == pytest.approx(20, abs=1.5)  # one choice for all folds: 22 and more


def test_rare_callers_weigh_as_much_where_dev_wants_it():
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.1).astype(np.int64)
    x = (rng.standard_normal((300, 1, 3)) + labels[:, None, None]).astype(np.float32)
    parts = np.arange(300) % 3
    config = replace(QUICK, folds=3)
    plain, both = (
        searched(x, labels, parts, 3, replace(config, class_weights=each), classes=2)[0]
        for each in (("none",), ("none", "balanced"))
    )
    assert [one.class_weights for one in both] == ["balanced"] * 3
    recalls = [np.mean([one.tested["unweighted_average_recall"] for one in found]) for found in (plain, both)]
    assert recalls[1] > recalls[0] + 15


def test_what_dev_chose_is_fitted_again_to_train_and_dev(monkeypatch):
    counts = []
    fit = layers.fit_linear
    monkeypatch.setattr(layers, "fit_linear", lambda x, *a, **k: counts.append(len(x)) or fit(x, *a, **k))
    x, labels, parts = noise(0, count=120, layer_count=1)
    searched(x, labels, parts, 4, QUICK)
    assert counts == [60, 60, 90] * 8


def test_costs_without_a_minimum_are_left_out(monkeypatch):
    fit = layers.fit_linear

    def limited(x, labels, classes, head, cost, **more):
        found = fit(x, labels, classes, head, cost, **more)
        if cost >= 1.0:
            raise NoMinimumError("too high", found)
        return found

    monkeypatch.setattr(layers, "fit_linear", limited)
    x, labels, parts = noise(0, layer_count=1)
    for one in searched(x, labels, parts, 4, replace(QUICK, costs=(1e-5, 1e-4, 1.0, 10.0)))[0]:
        assert (one.cost < 1.0, one.left_out) == (True, 2)
    with pytest.raises(
        ValueError, match=r"superb.costs: \[1.0, 10.0\] are all too high for layer 0; give smaller ones"
    ):
        searched(x, labels, parts, 4, replace(QUICK, costs=(1.0, 10.0)))


def test_full_scale_forgets_the_level():
    features, _ = source()
    full = at_full_scale(features)
    assert full.digest != features.digest
    wave = torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
    wave[1] = 0.0
    lengths = torch.full((2,), RATE)
    loud, quiet = (full.extract(level * wave, lengths).layers[1] for level in (1.0, 0.01))
    torch.testing.assert_close(loud, quiet)
    torch.testing.assert_close(loud[0], features.extract(wave / wave.abs().max(), lengths).layers[1][0])
    assert not loud[1].any()


def test_any_label_will_do(callers, tmp_path):
    found, _ = score(callers, tmp_path, Config(**SMALL), column="utt2kind")
    assert found.values["unweighted_average_recall"] < 75  # the tone does not tell it
    assert found.parameters == 2 * 9
    manifest = Manifest.open(callers / "all")
    kinds = dict(zip(manifest.ids, manifest.column("utt2kind"), strict=True))
    lines = [line.split() for line in found.answers["predictions"]]
    assert {line[0]: line[2] for line in lines} == kinds
    folds = [[line[1] == line[2] for line in lines if line[3] == str(fold)] for fold in range(4)]
    assert 100 * np.mean([np.mean(fold) for fold in folds]) == pytest.approx(found.values["accuracy"])


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
    assert shown["more"]["intervals"].keys() == {"unweighted_average_recall", "auc", "accuracy"}
    assert all(
        row.more["intervals"] == shown["more"]["intervals"] for row in read_results(tmp_path / "fbank" / "callers")
    )


def test_the_recipe_is_what_the_defaults_are():
    job = load_job("callers")
    assert job.config == Config()
    assert job.task_config == job.task_class.Config()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"costs": ()}, "superb.costs"),
        ({"costs": (1.0, 1.0)}, "superb.costs"),
        ({"class_weights": ()}, "superb.class_weights"),
        ({"folds": 2}, "superb.folds"),
        ({"shuffles": 0}, "shuffles"),
        ({"slow_down": 0.0}, "slow_down"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
