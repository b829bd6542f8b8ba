"""Pretraining that is killed, stopped or dealt out to processes is the same run, through the real command."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch
from chain_runs import RECIPE, UNITS, finish, losses, make_data, start, write_recipe
from command import succeed

from audiossl.interop.checkpoint import latest_checkpoint, list_checkpoints, load_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("restart")
    return ["pretrain", write_recipe(root, RECIPE), "--data", make_data(root / "c"), "--device", "cpu"]


def wait_for_step(experiment, step):
    """Wait until so many steps are recorded."""
    path, deadline = experiment / "metrics.jsonl", time.monotonic() + 120
    while not path.is_file() or path.read_text().count("\n") < step:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_run_resumes_to_the_bit(words, tmp_path):
    long = [*words, "--train.max_steps", "60"]
    assert finish(start(*long, "--out", tmp_path / "whole"))[0] == 0
    step = random.SystemRandom().randrange(1, 50)
    process = start(*long, "--out", tmp_path / "killed")
    wait_for_step(tmp_path / "killed", step)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL, f"killed at step {step}"
    assert finish(start(*long, "--out", tmp_path / "killed", "--resume"))[0] == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), f"killed at step {step}"
    whole, killed = (load_weights(latest_checkpoint(tmp_path / name)) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_four_processes_equal_four_micro_batches(words, tmp_path):
    assert finish(start(*words, "--out", tmp_path / "one", "--train.accumulate", "4"))[0] == 0
    status, err = finish(start(*words, "--out", tmp_path / "four", processes=4))
    assert status == 0, err
    for (step, loss), (other_step, other) in zip(losses(tmp_path / "one"), losses(tmp_path / "four"), strict=True):
        assert step == other_step
        assert loss == pytest.approx(other, rel=1e-6)
    one, four = (load_weights(latest_checkpoint(tmp_path / name)) for name in ("one", "four"))
    for name, value in one.items():
        torch.testing.assert_close(value, four[name], atol=1e-6, rtol=1e-6)


def test_bad_recordings_of_every_process_are_named_once(tmp_path):
    data = make_data(tmp_path / "c", 8)
    words = ["pretrain", write_recipe(tmp_path), "--data", data, "--device", "cpu", "--max-bad-fraction", "0.25"]
    words += ["--units.clusters", "4"]
    succeed(*words, "--out", tmp_path / "units")
    for number in (2, 5):
        (tmp_path / "c" / "audio" / f"{number:03}.wav").write_bytes(b"")
    no_units = [*words[:1], write_recipe(tmp_path, RECIPE.replace(UNITS, "")), *words[2:-2]]
    status, err = finish(start(*no_units, "--out", tmp_path / "e", processes=2))
    assert status == 0, err
    log = (tmp_path / "e" / "log" / "train.log").read_text().splitlines()
    named = sorted(line.split(":")[0] for line in log if line.startswith("left out"))
    assert named == ["left out s0-002", "left out s1-005"]


def terminate(process):
    process.send_signal(signal.SIGTERM)


def press_control_c(process):
    """As a terminal does it: the workers that make batches hear it too."""
    os.killpg(process.pid, signal.SIGINT)


def terminate_group(process):
    """As `timeout`, systemd and Slurm do it."""
    os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize(("stop", "expected"), [(terminate, 143), (press_control_c, 130), (terminate_group, 143)])
def test_stopped_run_saves_and_goes_on(words, tmp_path, stop, expected):
    out, two = tmp_path / "e", ["--data.num_workers", "2"]
    process = start(
        *words,
        *two,
        "--out",
        out,
        "--train.max_steps",
        "100000",
        "--train.save_every",
        "100000",
        start_new_session=True,
    )
    wait_for_step(out, 5)
    stop(process)
    status, err = finish(process)
    assert status == expected, err
    assert err.splitlines()[-1].endswith("a checkpoint is saved; continue with --resume")
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)
    [checkpoint] = list_checkpoints(out)
    step = int(checkpoint.name.removeprefix("step_"))
    assert losses(out)[-1][0] == step
    status, err = finish(start(*words, "--out", out, "--resume", "--train.max_steps", step + 2))
    assert status == 0, err
    assert [number for number, _ in losses(out)] == list(range(1, step + 3))
