"""`audiossl select` and `average`: the best of an experiment's checkpoints, and the mean of the last ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command import complains, succeed
from corpora import write_corpus

from audiossl import load
from audiossl.config import load_toml, to_table, write_toml
from audiossl.diagnostics.results import read_results
from audiossl.encoders.xvector import XVector
from audiossl.interop.checkpoint import load_weights, save_checkpoint
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.objectives.dino import DINO
from audiossl.verification.scores import read_scores, scores_of
from audiossl.verification.trials import read_trials

STEPS = (2, 4, 6)


def _numbers(line):
    return {int(name.split("-")[1]) for name in line.split()[:2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise of three colours, each a speaker, too short for a good encoder to be needed."""
    root = tmp_path_factory.mktemp("select")
    rng, waves = np.random.default_rng(0), []
    for number in range(12):
        speaker, noise = number % 3, rng.standard_normal(6000)
        waves.append(0.05 * np.convolve(noise, rng.uniform(0.5, 1) ** np.arange(1 + 4 * speaker), "same"))
    write_corpus(root, waves, speakers=("s0", "s1", "s2"))
    succeed("trials", root / "data", "--out", root / "trials")
    halves = {
        "dev": range(6),
        "test": range(6, 12),
    }  # of the utterances: a list of others of their pairs is the same list
    for name, half in halves.items():
        lines = [line for line in (root / "trials").read_text().splitlines() if _numbers(line) <= set(half)]
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root


@pytest.fixture
def experiment(tmp_path):
    """Checkpoints of random weights, the encoder's and others."""
    config = XVector.Config.tiny()
    for step in STEPS:
        torch.manual_seed(step)
        encoder = XVector(config)
        for module in encoder.modules():
            if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                module.running_mean.normal_()
                module.num_batches_tracked.fill_(step)
        weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
        save_checkpoint(tmp_path / "exp", step, weights | {"queue": torch.randn(5)}, {}, keep=9)
    tables = {"encoder": {"name": "xvector", **to_table(config)}, "objective": {"name": "moco"}, "run": {"data": "d"}}
    write_toml(tmp_path / "exp" / "config.toml", tables)
    return tmp_path / "exp"


def _written(path, lines):
    path.write_text("".join(lines))
    return path


def selected(experiment, data, *more, trials=None):
    words = ["--trials", trials or data / "dev", "--data", data / "data", "--num-workers", 0, "--device", "cpu"]
    return json.loads(succeed("select", experiment, *words, *more, "--json")[0])


def test_the_best_on_development_trials_is_what_the_experiment_means(experiment, data, tmp_path):
    found = selected(experiment, data)
    rates, dev = {}, read_trials(data / "dev")
    for step in STEPS:
        place, out = experiment / "checkpoints" / f"step_{step:08d}", tmp_path / str(step)
        succeed("embed", place, data / "data", "--out", out, "--num-workers", 0, "--device", "cpu")
        assert json.loads((tmp_path / str(step) / "embeddings.json").read_text())["source"] == str(place)
        assert not (out / "selection.json").exists() or step == found["step"]
        succeed("verify", "--trials", data / "dev", "--embeddings", out, "--out", out, "--select-on-test")
        rates[step] = equal_error_rate(scores_of(dev, read_scores(out / "scores")), dev.labels)
    assert {int(step): rate for step, rate in found["eer_by_step"].items()} == pytest.approx(rates)
    best = min(STEPS, key=lambda step: (rates[step], -step))
    assert found["step"] == best
    assert json.loads((experiment / "best.json").read_text())["step"] == best
    kept = load_weights(experiment / "checkpoints" / f"step_{best:08d}")
    assert all(torch.equal(value, kept[f"encoder.{name}"]) for name, value in load(experiment).state_dict().items())
    assert not list(experiment.glob(".select*"))


def test_the_selection_list_is_refused_as_test_list(experiment, data, tmp_path):
    selected(experiment, data, "--crops", 2, "--crop-duration", 0.2, "--crop-mean", "raw")
    out = tmp_path / "e"
    succeed("embed", experiment, data / "data", "--out", out, "--num-workers", 0, "--device", "cpu")
    base = ["verify", "--embeddings", out, "--trials"]
    succeed(*base, data / "test", "--out", tmp_path / "test")
    assert read_results(tmp_path / "test")[0].more["selection"] == str(data / "dev")
    assert "the checkpoint was selected on these trials" in complains(*base, data / "dev", "--out", tmp_path / "dev")
    dev = (data / "dev").read_text().splitlines(keepends=True)
    selected(experiment, data, trials=_written(tmp_path / "part", dev[:5]))
    succeed("embed", experiment, data / "data", "--out", out, "--num-workers", 0, "--device", "cpu", "--overwrite")
    assert "the checkpoint was selected on trials of these utterances" in complains(
        *base, _written(tmp_path / "rest", dev[5:]), "--out", tmp_path / "rest_out"
    )
    succeed(*base, data / "dev", "--out", tmp_path / "dev", "--select-on-test")
    assert read_results(tmp_path / "dev")[0].more["selection"] == "test"


def test_selecting_on_a_test_list_needs_a_flag_and_is_recorded(experiment, data, tmp_path):
    lines = (data / "dev").read_text().splitlines(keepends=True)
    listed = _written(tmp_path / "trials_o_cleaned", lines)
    words = ["select", experiment, "--trials", listed, "--data", data / "data", "--num-workers", 0, "--device", "cpu"]
    err = complains(*words)
    assert (
        f"{listed}: is a test list by its name or its folder's; give development trials, or add --select-on-test" in err
    )
    assert not (experiment / "best.json").exists()
    selected(experiment, data)
    assert json.loads((experiment / "best.json").read_text())["select_on_test"] is False
    selected(experiment, data, "--select-on-test", trials=listed)
    assert json.loads((experiment / "best.json").read_text())["select_on_test"] is True


def test_a_selection_follows_what_is_trained_from_it(experiment, data, tmp_path):
    selected(experiment, data)
    later = tmp_path / "later"
    step = json.loads((experiment / "best.json").read_text())["step"]
    save_checkpoint(later, 1, load_weights(experiment / "checkpoints" / f"step_{step:08d}"), {}, keep=1)
    write_toml(later / "config.toml", load_toml(experiment / "config.toml") | {"run": {"init": str(experiment)}})
    succeed("embed", later, data / "data", "--out", tmp_path / "e", "--num-workers", 0, "--device", "cpu")
    words = ["verify", "--embeddings", tmp_path / "e", "--trials"]
    assert "a checkpoint that this one was started from was selected on these trials" in complains(
        *words, data / "dev", "--out", tmp_path / "dev"
    )
    succeed(*words, data / "dev", "--out", tmp_path / "dev", "--select-on-test")
    assert read_results(tmp_path / "dev")[0].more["selection"] == "test"
    succeed(*words, data / "test", "--out", tmp_path / "test")
    assert read_results(tmp_path / "test")[0].more["selection"] == str(data / "dev")
    again = ["verify", "--scores", tmp_path / "test" / "scores", "--trials", data / "test", "--out", tmp_path / "again"]
    succeed(*again)
    assert read_results(tmp_path / "again")[0].more["selection"] == str(data / "dev")


def test_averages_of_weights_and_buffers(experiment, tmp_path):
    out, _ = succeed("average", experiment, "--last", 2, "--out", tmp_path / "mean")
    assert out == f"{tmp_path / 'mean'}: mean of 2 checkpoints, steps 4 to 6\n"
    parts = [load_weights(experiment / "checkpoints" / f"step_{step:08d}") for step in STEPS[1:]]
    encoder = load(tmp_path / "mean").state_dict()
    assert any(name.endswith("running_mean") for name in encoder)
    for name, value in encoder.items():
        each = [part[f"encoder.{name}"].double().numpy() for part in parts]
        wanted = each[-1] if name.endswith("num_batches_tracked") else (each[0] + each[1]) / 2
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-7, atol=1e-12)
        assert value.dtype == parts[0][f"encoder.{name}"].dtype
    assert "queue" not in load_weights(tmp_path / "mean" / "checkpoints" / "step_00000006")
    run_table = load_toml(tmp_path / "mean" / "config.toml")["run"]
    assert (run_table["averaged"], run_table["averaged_steps"], run_table["data"]) == (str(experiment), [4, 6], "d")


def test_the_average_of_dino_is_its_teachers(tmp_path):
    config, own = XVector.Config.tiny(), DINO.Config.tiny()
    weights = {}
    for step in (1, 2):
        objective = DINO.from_data(XVector(config), own, tmp_path)
        for value in objective.parameters():
            torch.nn.init.normal_(value)
        weights[step] = {name: value.clone() for name, value in objective.state_dict().items()}
        save_checkpoint(tmp_path / "exp", step, weights[step], {}, keep=9)
    tables = {"encoder": {"name": "xvector", **to_table(config)}, "objective": {"name": "dino", **to_table(own)}}
    write_toml(tmp_path / "exp" / "config.toml", tables)
    succeed("average", tmp_path / "exp", "--last", 2, "--out", tmp_path / "mean")
    for name, value in load(tmp_path / "mean").named_parameters():
        wanted = (weights[1][f"{DINO.evaluated}.{name}"] + weights[2][f"{DINO.evaluated}.{name}"]) / 2
        torch.testing.assert_close(value.detach(), wanted)


def test_faults_are_one_line_each(experiment, data, tmp_path):
    (tmp_path / "absent").write_text("s0-0 nobody target\ns0-0 s1-1 nontarget\n")
    (tmp_path / "targets").write_text("s0-0 s0-3 target\n")
    lone = f"{tmp_path / 'targets'}: 1 target and 0 non-target trials: error rates need both"
    (tmp_path / "tuned").mkdir()
    select = ["--trials", data / "dev", "--data", data / "data"]
    tuned = {"encoder": {"name": "xvector"}, "adapter": {"name": "full"}, "task": {"name": "speaker"}}
    save_checkpoint(tmp_path / "tuned", 1, {}, {}, keep=1)
    save_checkpoint(tmp_path / "tuned", 2, {}, {}, keep=2)
    write_toml(tmp_path / "tuned" / "config.toml", tuned)
    (tmp_path / "tuned" / "best.json").write_text('{"step": 2, "accuracy": 1.0}')
    for words, status, message in (
        (["average", experiment, "--last", 1, "--out", tmp_path / "m"], 2, "a mean takes at least 2"),
        (
            ["average", experiment, "--last", 4, "--out", tmp_path / "m"],
            1,
            "keeps 3 checkpoints, fewer than 4; train with",
        ),
        (["average", experiment, "--last", 2, "--out", experiment], 1, "exists already"),
        (["average", tmp_path / "tuned", "--last", 2, "--out", tmp_path / "m"], 1, "is fine-tuned"),
        (["average", tmp_path, "--out", tmp_path / "m"], 1, "is no experiment"),
        (["select", tmp_path / "tuned", *select], 1, "was chosen in fine-tuning"),
        (["select", tmp_path, *select], 1, "is no experiment with checkpoints"),
        (["select", experiment, *select, "--crops", 2], 2, "--crops and --crop-duration go together"),
        (["select", experiment, *select, "--crop-mean", "raw"], 2, "--crop-mean goes with --crops"),
        (["select", experiment, "--trials", tmp_path / "absent", *select[2:]], 1, "has no utterance 'nobody'"),
        (["select", experiment, "--trials", tmp_path / "targets", *select[2:]], 1, lone),
    ):
        assert message in complains(*words, status=status)
    assert not (tmp_path / "m").exists()
    assert not (experiment / "best.json").exists()
