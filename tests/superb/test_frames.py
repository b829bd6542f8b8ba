"""Heads that share a stream of frames come out as if each were alone, also after a kill, with a cache, and beside other tasks."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from frame_runs import (
    DIM,
    LAYERS,
    RATE,
    SIZES,
    STRIDE,
    Upstream,
    add_noise,
    assert_same_heads,
    checkpoint,
    copied,
    job,
    make_corpus,
    phones,
    train,
)
from torch import nn

from audiossl import registry
from audiossl.config import build, find_recipe, load_toml
from audiossl.contracts import StepOutput
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.nn.task import Task
from audiossl.superb.frames import SHARED, Config
from audiossl.superb.heads import Head
from audiossl.superb.job import Job


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_several_rates_together_equal_each_alone(data, tmp_path):
    together = train(job(learning_rates=[1e-2, 3e-3]), data, tmp_path / "both")[0]
    first = train(job(learning_rates=[1e-2]), data, tmp_path / "first")[0]
    second = train(job(learning_rates=[3e-3]), data, tmp_path / "second")[0]
    heads = [checkpoint(tmp_path / name, "asr")["heads"] for name in ("both", "first", "second")]
    assert_same_heads(heads[0], heads[1] + heads[2])
    assert not torch.equal(heads[1][0]["weights"]["classifier.weight"], heads[2][0]["weights"]["classifier.weight"])
    assert together.dev == first.dev | second.dev
    assert together.values == (first if together.learning_rate == 1e-2 else second).values
    assert together.cost.forwards == first.cost.forwards


def test_tasks_together_equal_each_alone(data, tmp_path):
    upstream = Upstream()
    pr, asr = train([phones(), job()], data, tmp_path / "both", upstream)
    alone = [train(each, data, tmp_path / each.name)[0] for each in (phones(), job())]
    for score, other in zip((pr, asr), alone, strict=True):
        assert_same_heads(
            checkpoint(tmp_path / "both", score.task)["heads"], checkpoint(tmp_path / score.task, score.task)["heads"]
        )
        assert (score.values, score.dev, score.step) == (other.values, other.dev, other.step)
        assert score.more == {"forwards_shared_with": ["asr" if score is pr else "pr"]}
        assert other.more == {}


def test_recordings_with_too_few_frames_for_a_task_are_left_out(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    for part in ("train", "test"):
        scp = tmp_path / "data" / part / "wav.scp"
        write_audio(tmp_path / f"{part}.wav", np.full(15 * STRIDE, 0.1, np.float32), RATE)
        scp.write_text(scp.read_text().replace(f"{data}/audio/{part}2.wav", f"{tmp_path}/{part}.wav"))
        dur = scp.with_name("utt2dur")
        dur.write_text(re.sub(rf"{part}2 .*", f"{part}2 {15 * STRIDE / RATE}", dur.read_text()))
    for part in ("dev", "test"):
        (tmp_path / "data" / part / "trials").write_text(f"{part}0 {part}0 target\n{part}0 {part}1 nontarget\n")
    speakers = tmp_path / "data" / "train" / "utt2spk"
    speakers.write_text("".join(f"train{number} {'ab'[number % 2]}\n" for number in range(SIZES["train"])))
    heard = {"gain_db": 0.0, "trim_silence": False, "min_seconds": 0.0, "hidden_dim": 8, "pooled_dim": 12}
    asv = job("asv", "speaker_verification", heard, max_bad_fraction=0.4)
    said = []
    (score,) = train(asv, tmp_path / "data", tmp_path / "out", log=said)
    assert score.metric == "eer"
    for part in ("train", "test"):
        assert [line for line in said if f"{part}2" in line and "0.300 s is too short for 16 frames (0.320 s)" in line]


def test_forwards_are_counted(data, tmp_path):
    (score,) = train(job(learning_rates=[1e-2, 1e-3], batch_utterances=5), data, tmp_path)
    # 6 steps of 5 utterances, two evaluations on dev, one on test.
    once = 6 * 5 + 2 * SIZES["dev"]
    assert score.cost.forwards == once + SIZES["test"]
    assert score.cost.alone_forwards == 2 * once + SIZES["test"]
    (cached,) = train(job(learning_rates=[1e-2, 1e-3], batch_utterances=5, cache_gb=1.0), data, tmp_path / "cached")
    assert cached.cost.forwards == sum(SIZES.values())
    assert cached.cost.alone_forwards == score.cost.alone_forwards


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_tasks_that_share_frames_each_count_those_they_use(data, tmp_path, cache_gb):
    """The second task looks first; what it leaves in the store the first one uses."""
    settings = {"cache_gb": cache_gb, "batch_utterances": 5}
    jobs = [job(**settings, steps=6, eval_every=2), phones(**settings, accumulate=1, steps=6, eval_every=3)]
    together = train(jobs, data, tmp_path / "both")
    alone = [train(each, data, tmp_path / each.name)[0] for each in jobs]
    assert [score.cost.forwards for score in together] == [score.cost.forwards for score in alone]
    assert [score.cost.forwards for score in together] != [0, 0]


def test_frames_of_earlier_tasks_make_room_within_the_budget(data, tmp_path):
    def kept():
        return {path.parent.name: path.stat().st_size for path in (tmp_path / "frames").glob("*/frames.bin")}

    train(job(cache_gb=1.0), data, tmp_path)
    first = kept()
    assert len(first) == 2  # train and dev
    other = copied(data, tmp_path / "other")
    add_noise((other / "audio").glob("*.wav"))
    budget = 1.2 * sum(first.values())
    train(phones(cache_gb=budget / 1e9), other, tmp_path)
    assert first.keys() & kept().keys() < first.keys()
    assert sum(kept().values()) <= budget


def test_a_score_says_how_many_recordings_of_test_it_leaves_out(data, tmp_path):
    broken = copied(data, tmp_path / "data")
    (broken / "audio" / "test1.wav").write_bytes(b"RIFF")
    (score,) = train(job(max_bad_fraction=0.5), broken, tmp_path / "out")
    assert score.more == {"test_left_out": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_frames_train_what_recomputed_ones_do(data, tmp_path, workers):
    plain = train(job(), data, tmp_path / "plain")[0]
    cached = train(job(cache_gb=1.0, num_workers=workers), data, tmp_path / "cached")[0]
    assert_same_heads(checkpoint(tmp_path / "cached", "asr")["heads"], checkpoint(tmp_path / "plain", "asr")["heads"])
    assert cached.values == plain.values


def test_a_cache_that_is_too_small_changes_nothing_but_the_cost(data, tmp_path, monkeypatch):
    # Rounded to float16, cached or not. The budget holds dev and half of train.
    most = sum(int(np.ceil(d * 50)) for name in ("dev", "train") for d in Manifest.open(data / name).durations)
    settings = {"cache_dtype": "float16", "steps": 8, "eval_every": 4}
    monkeypatch.setattr("audiossl.superb.frames.told_size", lambda needed, budget_gb: f"{needed} of {budget_gb}")
    log = []
    whole = train(job(cache_gb=1.0, **settings), data, tmp_path / "whole", log=log)[0]
    assert log[0] == f"{most * LAYERS * DIM * 2} of 1.0"
    half = train(job(cache_gb=0.6 * most * LAYERS * DIM * 2 / 1e9, **settings), data, tmp_path / "half")[0]
    plain = train(job(**settings), data, tmp_path / "plain")[0]
    assert_same_heads(checkpoint(tmp_path / "whole", "asr")["heads"], checkpoint(tmp_path / "half", "asr")["heads"])
    assert whole.cost.forwards < half.cost.forwards < plain.cost.forwards
    weights = [
        checkpoint(tmp_path / name, "asr")["heads"][0]["weights"]["classifier.weight"] for name in ("whole", "plain")
    ]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, atol=5e-3, rtol=0)


def test_what_a_task_does_not_measure_is_said(data, tmp_path, monkeypatch):
    asr, log = job(), []
    said = classmethod(lambda _, config: f"not with dropout {config.dropout:g}")
    monkeypatch.setattr(asr.task_class, "not_measured", said, raising=False)
    train(asr, data, tmp_path, log=log)
    assert log[0] == f"asr: not with dropout {asr.task_config.dropout:g}"


def train_and_kill(at, *given):
    """End the process, so to speak, in the middle of a step: when a head is trained for the `at`th time."""
    micro_step, calls = Head.micro_step, iter(range(at - 1))

    def counted(self, *given):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return micro_step(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Head, "micro_step", counted)
        train(*given)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_a_killed_run_goes_on_to_the_same_bits(data, tmp_path, cache_gb):
    settings = {"steps": 9, "cache_gb": cache_gb, "batch_utterances": 3}
    jobs = [phones(**settings | {"steps": 4}), job(learning_rates=[1e-2, 1e-3], **settings)]
    scores = train(jobs, data, tmp_path / "straight")
    killed = tmp_path / "killed"
    for at in (14, 4, 12):  # between two evaluations, then before the next one, then after it
        with pytest.raises(KeyboardInterrupt):
            train_and_kill(at, jobs, data, killed)
    assert checkpoint(killed, "asr")["position"] == 6  # so that not all was trained again
    again = train(jobs, data, killed)
    for name in ("pr", "asr"):
        one, other = checkpoint(tmp_path / "straight", name), checkpoint(killed, name)
        assert one["position"] == other["position"]
        assert_same_heads(one["heads"], other["heads"])
    for score, other in zip(scores, again, strict=True):
        assert (score.values, score.dev, score.step, score.shares) == (
            other.values,
            other.dev,
            other.step,
            other.shares,
        )
        assert other.cost.alone_forwards == score.cost.alone_forwards
        if not cache_gb:
            assert other.cost.forwards == score.cost.forwards


def test_tasks_that_were_interrupted_together_go_on_apart(data, tmp_path):
    jobs = [phones(steps=6), job()]
    straight = train(jobs[1], data, tmp_path / "straight")[0]
    with pytest.raises(KeyboardInterrupt):
        train_and_kill(9, jobs, data, tmp_path / "killed")
    assert checkpoint(tmp_path / "killed", "asr")["position"] == 3
    score = train(jobs[1], data, tmp_path / "killed")[0]
    assert score.values == straight.values
    train(jobs, data, tmp_path / "killed")  # pr is behind and catches up
    assert checkpoint(tmp_path / "killed", "pr")["position"] == 12


def test_a_finished_run_is_only_scored_again(data, tmp_path):
    first = train(job(), data, tmp_path)[0]
    upstream = Upstream()
    second = train(job(), data, tmp_path, upstream)[0]
    assert second.values == first.values
    assert upstream.calls == 1
    with pytest.raises(
        ValueError, match=r"was trained with superb.eval_every 3, now 2; choose another --out, or delete"
    ):
        train(job(eval_every=2), data, tmp_path)


def test_heads_that_are_chosen_on_test_are_kept_only_for_its_labels(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    train(starts(), tmp_path / "data", tmp_path / "out")
    text = tmp_path / "data" / "test" / "text"
    text.write_text(text.read_text().replace("test1 no", "test1 so"))
    with pytest.raises(
        ValueError, match="was trained with another test: utterances, recordings or labels have changed"
    ):
        train(starts(), tmp_path / "data", tmp_path / "out")


def test_the_best_state_on_dev_is_scored(data, tmp_path):
    (score,) = train(job(learning_rates=[1e-1, 1e-5], steps=12), data, tmp_path)
    state = checkpoint(tmp_path, "asr")
    assert score.learning_rate == min(score.dev, key=score.dev.get)
    assert score.step == state["heads"][list(score.dev).index(score.learning_rate)]["dev"]["step"]
    assert score.step % 3 == 0
    assert score.selection == "dev wer"
    assert score.metric == "wer"
    assert sum(score.shares) == pytest.approx(1, abs=1e-6)
    assert set(score.values) == {"wer", "cer"}


def test_one_task_by_itself(data, tmp_path):
    (score,) = train(phones(), data, tmp_path)
    assert score.task == "pr"
    assert set(score.values) == {"per"}
    score.write(tmp_path)
    assert (tmp_path / "results.json").is_file()


def test_accumulated_batches_make_one_step(data, tmp_path):
    """With equal lengths of labels nothing else: 2 x 5 utterances per step are 1 x 10."""
    train(phones(batch_utterances=5, accumulate=2, steps=1, eval_every=1), data, tmp_path / "two")
    train(phones(batch_utterances=10, accumulate=1, steps=1, eval_every=1), data, tmp_path / "one")
    two, one = (checkpoint(tmp_path / name, "pr")["heads"][0]["weights"] for name in ("two", "one"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], atol=1e-5, rtol=1e-4)


def test_heads_that_diverge_are_dropped_with_a_line(data, tmp_path):
    log = []
    (score,) = train(phones(learning_rates=[1e-2, 1e25]), data, tmp_path / "some", log=log)
    assert [line for line in log if "diverges" in line] == ["pr: learning rate 1e+25 diverges at step 1; it is dropped"]
    assert set(score.dev) == {1e-2}
    with pytest.raises(ValueError, match=r"pr: superb.learning_rates \[1e\+25, 1e\+30\] all diverge; give smaller"):
        train(phones(learning_rates=[1e25, 1e30]), data, tmp_path / "all")


def test_unusable_recordings_are_left_out_and_named(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    scp = tmp_path / "data" / "train" / "wav.scp"
    scp.write_text(scp.read_text().replace("train3.wav", "none.wav"))
    durations = Manifest.open(data / "train").durations
    (tmp_path / "data" / "train" / "utt2dur").write_text(
        "".join(f"train{number} {seconds}\n" for number, seconds in enumerate(durations))
    )
    log = []
    train(job(max_bad_fraction=0.2), tmp_path / "data", tmp_path / "out", log=log)
    assert sum("left out" in line and "none.wav" in line for line in log) == 1
    with pytest.raises(ValueError, match="max_bad_fraction"):
        train(job(), tmp_path / "data", tmp_path / "other")


SEEN = []


class Starts(Task):
    """Its one weight learns nothing; it notes where crops begin, and is chosen on test."""

    @dataclass(frozen=True)
    class Config:
        crop_seconds: float | None = 0.5
        column: str = "text"

    selects_on_test = True
    metric = ("weight", "min")
    needs = ()

    def __init__(self, config):
        super().__init__()
        self.config, self.labels = config, _note
        self.weight = nn.Parameter(torch.ones(1))

    @classmethod
    def from_data(cls, shape, config, manifest):
        return cls(config)

    def loss(self, output, batch):
        SEEN.append((batch, output.lengths.tolist()))
        return StepOutput(self.weight.sum(), torch.tensor(1.0))

    def predict(self, output):
        return output.lengths.tolist()

    def evaluate(self, predictions, manifest):
        assert sorted(predictions) == list(manifest.ids)
        assert min(predictions.values()) > 0.7 * 50  # whole utterances
        return {"weight": abs(self.weight.item() - 0.75), "dev": float(manifest.path.name == "dev")}


def _note(piece):
    return {"start": piece.start, "seconds": piece.duration, "samples": len(piece.waveform), "ones": np.ones(3)}


def starts(**settings):
    table = {"learning_rates": [0.125], "steps": 5, "eval_every": 1, "num_workers": 0, "cache_gb": 1.0}
    return Job("starts", "starts", Starts, Starts.Config(), build(Config, table | settings, "superb"))


def test_crops_are_random_and_labels_know_their_place(data, tmp_path):
    SEEN.clear()
    (score,) = train(starts(), data, tmp_path)
    assert {length for _, lengths in SEEN for length in lengths} == {25}
    batches = [batch for batch, _ in SEEN]
    assert all(batch.keys() == {"utt_ids", "start", "seconds", "samples", "ones", "ones_lengths"} for batch in batches)
    assert {float(value) for batch in batches for value in batch["samples"]} == {8000}
    assert {float(value) for batch in batches for value in batch["seconds"]} == {0.5}
    places = [float(value) for batch in batches for value in batch["start"]]
    assert len(set(places)) > 0.9 * len(places)  # also from epoch to epoch
    # Crops are not cached: every one of them is a forward; dev and test are one each.
    assert score.cost.forwards == len(places) + SIZES["dev"] + SIZES["test"]


def test_tasks_that_choose_on_test_report_both(data, tmp_path):
    (score,) = train(starts(), data, tmp_path)
    # The weight goes 0.875, 0.75, 0.625: the second step is best on either.
    assert score.step == 2
    assert score.official == {"weight": pytest.approx(0, abs=1e-6), "dev": 0.0}
    assert score.values == score.official
    assert score.selection == "dev weight"


@pytest.mark.parametrize(("first", "step", "best"), [(3, 3, 0.125), (4, 4, 0.25), (9, 5, 0.375)])
def test_early_steps_may_not_be_chosen(data, tmp_path, first, step, best):
    (score,) = train(starts(choose_from=first), data, tmp_path)
    assert (score.step, score.values["weight"]) == (step, pytest.approx(best, abs=1e-6))
    assert score.official == score.values


def test_without_dev_the_last_step_counts(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "dev")
    (score,) = train(starts(), tmp_path / "data", tmp_path / "out")
    assert (score.step, score.selection, score.dev) == (5, "last step", {})
    assert score.values["weight"] == pytest.approx(0.375)
    assert score.official["weight"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="to choose one of 2 learning rates on; add it, or give one rate"):
        train(starts(learning_rates=[1.0, 2.0]), tmp_path / "data", tmp_path / "two")
    with pytest.raises(ValueError, match="dev: no such directory, and asr chooses on it"):
        train(job(), tmp_path / "data", tmp_path / "three")


def test_what_cannot_be_trained_is_said_before_it_is(data, tmp_path):
    with pytest.raises(ValueError, match="superb.batch_utterances: asr has 4, pr 3; tasks that are trained together"):
        train([job(), phones(batch_utterances=3)], data, tmp_path)
    with pytest.raises(ValueError, match="task.crop_seconds: asr and starts differ"):
        train([job(batch_utterances=4), starts(batch_utterances=4, cache_gb=0.0)], data, tmp_path)
    with pytest.raises(ValueError, match="one is given twice"):
        train([job(), job()], data, tmp_path)
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "dev" / "text").unlink()
    upstream = Upstream()
    with pytest.raises(ValueError, match="dev/text: no such file"):
        train(job(), tmp_path / "data", tmp_path / "out", upstream)
    assert upstream.calls == 0


def rates(**settings):
    config = Config(steps=40, warmup_steps=10, **settings)
    return [config.share(step) for step in range(40)]


def test_schedules():
    growing = [step / 10 for step in range(10)]
    assert [Config(steps=40).share(step) for step in (0, 39)] == [1.0, 1.0]
    assert rates() == pytest.approx([*growing, *[1.0] * 30])
    assert rates(schedule="inverse_sqrt") == pytest.approx([*growing, *[(10 / step) ** 0.5 for step in range(10, 40)]])
    assert rates(schedule="linear") == pytest.approx([*growing, *[(40 - step) / 30 for step in range(10, 40)]])
    assert Config(steps=2, warmup_steps=5, schedule="linear").share(1) == 0.2


def test_updates_follow_the_schedule_also_after_a_kill(data, tmp_path):
    settings = {
        "steps": 6,
        "eval_every": 2,
        "schedule": "linear",
        "warmup_steps": 2,
        "accumulate": 2,
        "optimizer": "adamw",
    }
    seen = []
    update = Head.update

    def noting(self, share):
        update(self, share)
        seen.append(self.optimizer.param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Head, "update", noting)
        train(job(**settings), data, tmp_path / "straight")
        assert seen == pytest.approx([0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025])
        with pytest.raises(KeyboardInterrupt):
            train_and_kill(8, job(**settings), data, tmp_path / "killed")
        train(job(**settings), data, tmp_path / "killed")
    heads = [checkpoint(tmp_path / name, "asr")["heads"] for name in ("straight", "killed")]
    assert_same_heads(*heads)
    train(job(**settings | {"schedule": "constant", "warmup_steps": 0}), data, tmp_path / "constant")
    other = checkpoint(tmp_path / "constant", "asr")["heads"][0]["weights"]
    assert not torch.equal(other["classifier.weight"], heads[0][0]["weights"]["classifier.weight"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rates": ()}, "learning_rates"),
        ({"learning_rates": (1e-3, 1e-3)}, "none of them twice"),
        ({"learning_rates": (0.0,)}, "positive numbers"),
        ({"steps": 0}, "superb.steps: 0 is not positive"),
        ({"accumulate": 0}, "superb.accumulate: 0"),
        ({"clip_norm": -1.0}, "must not be negative"),
        ({"warmup_steps": -1}, "must not be negative"),
        ({"schedule": "inverse_sqrt"}, "set superb.warmup_steps"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(Config(), **changed)


@pytest.mark.parametrize(("name", "published"), [("pr", 1e-2), ("asr", 1e-4), ("sf", 1e-4)])
def test_recipes_try_the_published_rate(name, published):
    tables = load_toml(find_recipe(f"superb_{name}"))
    config = build(Config, tables["superb"], name)
    assert published in config.learning_rates
    cls = registry.get("tasks", tables["task"].pop("name"))
    assert build(cls.Config, tables["task"], name) == cls.Config()


def test_the_recipes_of_pr_and_asr_share_a_stream():
    pr, asr = (build(Config, load_toml(find_recipe(f"superb_{name}"))["superb"], name) for name in ("pr", "asr"))
    assert pr.steps * pr.accumulate == asr.steps * asr.accumulate
    assert {key: getattr(pr, key) for key in SHARED} == {key: getattr(asr, key) for key in SHARED}
