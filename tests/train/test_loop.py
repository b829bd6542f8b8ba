"""The loop's promises: micro-batches equal processes, a killed run goes on as if nothing had happened, bad runs stop."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_run
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.loader import BadRecordings
from audiossl.interop.checkpoint import latest_checkpoint, list_checkpoints, load_weights
from audiossl.train.distributed import World
from audiossl.train.ledger import read_cost
from audiossl.train.loop import StoppedError, TrainConfig, hash_seed, train
from audiossl.train.optim import OptimConfig

SCRIPT = Path(__file__).with_name("toy_run.py")
ALONE = World(0, 1, torch.device("cpu"))


def run_toy(*words, processes=1, check=True):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, str(SCRIPT), *map(str, words)], check=check, capture_output=True, env=environment, text=True
    )


def losses(experiment):
    lines = [json.loads(line) for line in (experiment / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["absolute_error"]) for line in lines if line["kind"] == "train"]


def weights(experiment):
    return load_weights(latest_checkpoint(experiment))


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("clip-each",)])
def test_four_processes_equal_four_micro_batches(tmp_path, words):
    run_toy(tmp_path / "alone", 4, 12, *words)
    run_toy(tmp_path / "four", 1, 12, *words, processes=4)
    for (step, loss, error), (other_step, other_loss, other_error) in zip(
        losses(tmp_path / "alone"), losses(tmp_path / "four"), strict=True
    ):
        assert step == other_step
        assert loss == pytest.approx(other_loss, abs=1e-6)
        assert error == pytest.approx(other_error, abs=1e-6)
    alone, four = weights(tmp_path / "alone"), weights(tmp_path / "four")
    for name, value in alone.items():
        torch.testing.assert_close(value, four[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_resume_on_other_number_of_processes(tmp_path):
    run_toy(tmp_path / "alone", 4, 12)
    run_toy(tmp_path / "mixed", 4, 12, "kill-at-7", check=False)
    run_toy(tmp_path / "mixed", 2, 12, "resume", processes=2)
    for (_, loss, _), (_, other, _) in zip(losses(tmp_path / "alone"), losses(tmp_path / "mixed"), strict=True):
        assert loss == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("kill_at", [1, 5, 9])
def test_killed_run_resumes_to_the_bit(tmp_path, kill_at):
    run_toy(tmp_path / "whole", 2, 10)
    killed = run_toy(tmp_path / "killed", 2, 10, f"kill-at-{kill_at}", check=False)
    assert killed.returncode == -signal.SIGKILL
    run_toy(tmp_path / "killed", 2, 10, "resume")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(tmp_path, number):
    code = f"import sys; sys.argv = ['', '{tmp_path}/run', '1', '1000000']; import toy_run; toy_run.main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run"):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert f"StoppedError: stopped by signal {int(number)}; a checkpoint is saved" in message
    last = losses(tmp_path / "run")[-1][0]
    assert latest_checkpoint(tmp_path / "run").name == f"step_{last:08d}"
    run_toy(tmp_path / "run", 1, last + 2, "resume")
    assert [step for step, *_ in losses(tmp_path / "run")] == list(range(1, last + 3))


class Broken(nn.Module):
    """A module whose loss is not finite, or whose representation has collapsed."""

    def __init__(self, loss=1.0, std=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.loss, self.std = loss, std

    def after_step(self, step):
        pass

    def forward(self, batch):
        one = torch.tensor(1.0)
        return StepOutput((self.weight * self.loss).sum(), one, {"embedding_std": (torch.tensor(self.std), one)})


def batches(positions):
    for _ in positions:
        yield {"waveform": torch.ones(1, 5), "waveform_lengths": torch.tensor([5])}


def run_broken(tmp_path, module, **changes):
    config = TrainConfig(max_steps=400, precision="fp32", tensorboard=False, **changes)
    train(module, batches, experiment=tmp_path, config=config, optim=OptimConfig(), world=ALONE, sample_rate=16000)


class Linear(nn.Module):
    """Mean of w x + b over all samples, whose gradients are the mean of x and 1."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(5, 1)), nn.Parameter(torch.zeros(1))

    def after_step(self, step):
        pass

    def forward(self, batch):
        outputs = batch["waveform"] @ self.weight + self.bias
        return StepOutput(outputs.sum(), torch.tensor(float(len(outputs))))


@pytest.mark.parametrize("clip", ["global", "parameter"])
def test_what_is_clipped_is_the_gradient_of_all_micro_batches(tmp_path, clip):
    rows = [10 * torch.randn(2 + k, 5, generator=torch.Generator().manual_seed(k)) for k in range(3)]

    def stream(positions):
        for position in positions:
            yield {"waveform": rows[position], "waveform_lengths": torch.full((len(rows[position]),), 5)}

    module = Linear()
    config = TrainConfig(max_steps=1, accumulate=3, precision="fp32", tensorboard=False, clip=clip, clip_norm=0.5)
    last = train(
        module, stream, experiment=tmp_path, config=config, optim=OptimConfig("sgd", 1.0, weight_decay=0.0, schedule="constant"),
        world=ALONE, sample_rate=16000,
    )  # fmt: skip
    slope, offset = torch.cat(rows).mean(0).double(), torch.ones(1).double()
    whole = torch.cat([slope, offset]).norm()
    assert last["grad_norm"] == pytest.approx(whole.item(), rel=1e-5)
    sizes = (whole, whole) if clip == "global" else (slope.norm(), offset.norm())
    wanted = [-gradient * min(1.0, 0.5 / size) for gradient, size in zip((slope, offset), sizes, strict=True)]
    torch.testing.assert_close(module.weight.detach().double().squeeze(1), wanted[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(module.bias.detach().double(), wanted[1], rtol=1e-4, atol=1e-6)


def test_clipping_needs_a_norm():
    with pytest.raises(ValueError, match=r"train\.clip: 'parameter' has no norm to clip to; set train\.clip_norm"):
        TrainConfig(clip="parameter", clip_norm=0.0)


@pytest.mark.parametrize("name", ["clip_norm", "seed", "eval_every", "keep_checkpoints"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match=rf"train\.{name}: -1 is negative"):
        TrainConfig(**{name: -1})


def test_loss_that_is_not_finite_stops_with_a_cure(tmp_path):
    with pytest.raises(ValueError, match=r"not finite for 10 steps; lower optim.peak_lr"):
        run_broken(tmp_path, Broken(loss=math.nan))


def test_what_is_drawn_for_development_data_is_the_same_at_every_step_and_seed(tmp_path):
    drawn = []

    def measure(module, say):
        drawn.append(torch.rand(()).item())
        return {}

    for seed in (0, 1):
        config = TrainConfig(max_steps=2, seed=seed, eval_every=1, precision="fp32", tensorboard=False)
        train(
            Broken(), batches, experiment=tmp_path / str(seed), config=config, optim=OptimConfig(), world=ALONE,
            sample_rate=16000, evaluate=measure,
        )  # fmt: skip
    assert len(drawn) == 4
    assert len(set(drawn)) == 1


def test_collapse_stops_with_a_diagnosis(tmp_path):
    with pytest.raises(
        ValueError, match=r"step 150: collapsed: embedding_std .* all frames or utterances have the same representation"
    ):
        run_broken(tmp_path, Broken(std=0.0))


def test_what_is_left_out_is_named_once(tmp_path):
    def stream(positions):
        for position, batch in zip(positions, batches(range(6)), strict=False):
            yield {**batch, "bad": [("u", f"broken {position}")] if position in {1, 3} else []}

    config = TrainConfig(max_steps=6, precision="fp32", tensorboard=False, log_every=1)
    train(
        Broken(), stream, experiment=tmp_path, config=config, optim=OptimConfig(), world=ALONE, sample_rate=16000,
        bad=BadRecordings(0.5, 2),
    )  # fmt: skip
    assert (tmp_path / "log" / "train.log").read_text().count("left out u: broken") == 1


def test_statistics_of_norms_are_the_same_in_all_processes(tmp_path):
    run_toy(tmp_path / "run", 1, 4, "norm", processes=2)
    first, second = (json.loads((tmp_path / "run" / f"norm{rank}").read_text()) for rank in range(2))
    assert first == second
    assert weights(tmp_path / "run")["norm.running_mean"].tolist() == first
    expected = torch.zeros(5)
    for step in range(4):
        means = [batch["waveform"].mean(0) for batch in toy_run.stream(range(2 * step, 2 * step + 2))]
        expected = 0.9 * expected + 0.1 * torch.stack(means).mean(0)
    torch.testing.assert_close(torch.tensor(first), expected)


def test_checkpoints_are_dropped_but_the_best(tmp_path):
    scores = iter([3.0, 1.0, 2.0, 2.5])
    config = TrainConfig(
        max_steps=8, precision="fp32", tensorboard=False, eval_every=2, save_every=1, keep_checkpoints=2
    )
    train(
        Broken(), batches, experiment=tmp_path, config=config, optim=OptimConfig(), world=ALONE, sample_rate=16000,
        evaluate=lambda _module, _say: {"wer": next(scores)}, better=("wer", "min"),
    )  # fmt: skip
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000004", "step_00000007", "step_00000008"]


DONE = {"optim": OptimConfig(), "sample_rate": 16000, "better": ("wer", "min")}


def test_a_run_is_saved_before_an_evaluation_that_fails(tmp_path):
    def failing(_module, _say):
        assert latest_checkpoint(tmp_path).name == "step_00000003"
        raise ValueError("no loss")

    words = DONE | {"config": TrainConfig(max_steps=3, precision="fp32", tensorboard=False), "world": ALONE}
    for resume in (False, True):
        with pytest.raises(ValueError, match="no loss"):
            train(Broken(), batches, experiment=tmp_path, evaluate=failing, resume=resume, **words)


@pytest.mark.parametrize(("steps", "every", "measured"), [(3, 0, [3]), (5, 3, [3, 5]), (5, 0, [5])])
def test_an_evaluation_that_failed_is_made_up_once(tmp_path, steps, every, measured):
    def go(max_steps, evaluate, *, resume=True):
        config = TrainConfig(max_steps=max_steps, precision="fp32", tensorboard=False, eval_every=every)
        words = DONE | {"experiment": tmp_path, "config": config, "world": ALONE, "resume": resume}
        train(Broken(), batches, evaluate=evaluate, **words)

    def failing(_module, _say):
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        go(3, failing, resume=False)
    for wer in (2.0, 1.0):  # what was measured is not measured again
        go(steps, lambda _module, _say, wer=wer: {"wer": wer})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "dev"] == measured
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": measured[0], "wer": 2.0}


def test_a_best_checkpoint_stays_the_best_after_a_restart(tmp_path):
    scores = iter([2.0, 1.0, 1.5])
    words = DONE | {"experiment": tmp_path, "world": ALONE, "evaluate": lambda _module, _say: {"wer": next(scores)}}
    for steps in (4, 6):
        config = TrainConfig(max_steps=steps, precision="fp32", tensorboard=False, eval_every=2, save_every=2)
        train(Broken(), batches, config=config, resume=True, **words)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 4, "wer": 1.0}


def test_the_scores_of_the_main_process_decide(tmp_path):
    class Second(World):
        """A process whose own scores fall while those of the main one rise."""

        def gather(self, items):
            return [{"wer": -items[0]["wer"]}, *items]

    scores = iter([3.0, 2.0, 1.0])
    config = TrainConfig(max_steps=3, precision="fp32", tensorboard=False, eval_every=1)
    words = DONE | {"world": Second(0, 1, torch.device("cpu")), "evaluate": lambda _module, _say: {"wer": next(scores)}}
    train(Broken(), batches, experiment=tmp_path, config=config, **words)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 1, "wer": -3.0}


@pytest.mark.parametrize(
    ("size", "accumulate", "cure"),
    [(1, 2, "train.accumulate 4"), (2, 4, "train.accumulate 2"), (3, 1, "a number of processes that divides 4")],
)
def test_updates_of_other_sizes_are_not_the_same_run(tmp_path, size, accumulate, cure):
    words = {"experiment": tmp_path, "optim": OptimConfig(), "sample_rate": 16000}
    config = TrainConfig(max_steps=2, precision="fp32", tensorboard=False, accumulate=4)
    train(Broken(), batches, config=config, world=ALONE, **words)
    more, world = replace(config, max_steps=4, accumulate=accumulate), World(0, size, torch.device("cpu"))
    said = f"train.accumulate: {accumulate} in {size} process(es), but this run has 4 micro-batches in an update; resume with {cure}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        train(Broken(), batches, config=more, world=world, resume=True, **words)


class Clock:
    """A clock that moves a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def test_what_a_run_and_its_continuation_cost_adds_up(tmp_path, monkeypatch):
    # A continued run begins where the cost of its checkpoint ended, whatever was written after that.
    monkeypatch.setattr("audiossl.train.ledger.time", Clock())

    def go(steps, resume):
        config = TrainConfig(max_steps=steps, precision="fp32", tensorboard=False, save_every=2)
        train(
            Broken(), batches, experiment=tmp_path, config=config, optim=OptimConfig(), world=ALONE, sample_rate=16000,
            resume=resume,
        )  # fmt: skip
        return read_cost(tmp_path)

    first = go(4, resume=False)
    assert first.keys() == {"seconds", "peak_bytes", "joules"}
    assert first["seconds"] == 2.0  # two checkpoints after the start
    assert first["peak_bytes"] > 0
    (tmp_path / "cost.json").write_text("half")
    second = go(8, resume=True)
    assert second["seconds"] == first["seconds"] + 2.0
    assert second["peak_bytes"] >= first["peak_bytes"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_does_not_end_before_its_checkpoint(tmp_path):
    words = {"experiment": tmp_path, "optim": OptimConfig(), "world": ALONE, "sample_rate": 16000, "resume": True}
    for steps in (3, 3):  # one that is finished stays so
        train(Broken(), batches, config=TrainConfig(max_steps=steps, precision="fp32", tensorboard=False), **words)
    with pytest.raises(ValueError, match=r"step_00000003: is beyond train\.max_steps 2; raise it"):
        train(Broken(), batches, config=TrainConfig(max_steps=2, precision="fp32", tensorboard=False), **words)


def test_a_checkpoint_without_costs_goes_on(tmp_path):
    run_broken_once = TrainConfig(max_steps=1, precision="fp32", tensorboard=False)
    words = {"experiment": tmp_path, "optim": OptimConfig(), "world": ALONE, "sample_rate": 16000}
    train(Broken(), batches, config=run_broken_once, **words)
    path = latest_checkpoint(tmp_path) / "state.pt"
    state = torch.load(path)
    del state["cost"]
    torch.save(state, path)
    (tmp_path / "cost.json").unlink()
    more = TrainConfig(max_steps=2, precision="fp32", tensorboard=False)
    train(Broken(), batches, config=more, resume=True, **words)
    assert read_cost(tmp_path)["seconds"] >= 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((28, "No space left on device"), "No space left.*; free some disk, then --resume"),
        ((2, "No such file or directory"), "No such file.*; see that nothing else writes there, then --resume"),
    ],
)
def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, fault, said):
    import safetensors.torch

    run_broken_steps = TrainConfig(max_steps=3, precision="fp32", tensorboard=False, save_every=2)
    real = safetensors.torch.save_file
    calls = []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(*fault, str(path))
        real(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ValueError, match=f"step_00000003: cannot be written .*{said}"):
        train(
            Broken(), batches, experiment=tmp_path, config=run_broken_steps, optim=OptimConfig(), world=ALONE,
            sample_rate=16000,
        )  # fmt: skip
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    assert load_weights(latest_checkpoint(tmp_path))


def test_seeds_differ():
    assert len({hash_seed(a, b) for a in range(20) for b in range(20)}) == 400


def test_stopped_error_says_how_to_go_on():
    assert "--resume" in str(StoppedError(15))
