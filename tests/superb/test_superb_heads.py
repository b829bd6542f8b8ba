"""Heads go on only with what they learnt from, and lose no more than one update to a gradient that is not finite."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import jiwer
import pytest
import torch
from frame_runs import SIZES, TEXTS, Upstream, add_noise, checkpoint, copied, job, make_corpus, phones, train
from held_folder import held
from torch import nn

from audiossl.config import build, to_table
from audiossl.contracts import StepOutput
from audiossl.data.manifest import Manifest
from audiossl.data.ngram import train_ngrams, write_arpa
from audiossl.diagnostics.results import read_results
from audiossl.nn import lm_beam
from audiossl.nn.task import Task
from audiossl.superb.frames import Config
from audiossl.superb.heads import Head, TaskHeads
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.score import Choice


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(("part", "kept"), [("train", False), ("dev", False), ("test", True)])
def test_heads_are_kept_only_for_the_labels_that_they_learnt(data, tmp_path, part, kept):
    shutil.copytree(data, tmp_path / "data")
    first = train(job(), tmp_path / "data", tmp_path / "out")[0]
    text = tmp_path / "data" / part / "text"
    text.write_text(text.read_text().replace(f"{part}1 no", f"{part}1 so yes"))
    upstream = Upstream()
    if kept:  # only scored again
        assert train(job(), tmp_path / "data", tmp_path / "out", upstream)[0].values != first.values
        assert upstream.calls == 1
    else:
        message = f"heads.pt: was trained with another {part}: utterances, recordings or labels have changed; choose another --out"
        with pytest.raises(ValueError, match=message):
            train(job(), tmp_path / "data", tmp_path / "out", upstream)
        assert upstream.calls == 0


def test_heads_are_kept_only_for_the_recordings_that_they_learnt(data, tmp_path):
    place, upstream = copied(data, tmp_path / "data"), Upstream()
    train(job(), data, tmp_path / "out")
    train(job(), place, tmp_path / "out", upstream)
    assert upstream.calls == 1  # of the same data elsewhere: only scored again
    add_noise((place / "audio").glob("train*.wav"))
    with pytest.raises(ValueError, match="another train: utterances, recordings or labels have changed; choose"):
        train(job(), place, tmp_path / "out")


def test_one_run_at_a_time_trains_heads(data, tmp_path):
    upstream = Upstream()
    train(phones(), data, tmp_path)
    (folder,) = (tmp_path / "pr").glob("heads-*")
    with held(folder) as pid, pytest.raises(ValueError) as error:
        train([job(accumulate=1), phones()], data, tmp_path, upstream)
    assert str(error.value).startswith(f"{folder}: another run (pid {pid} on ")
    assert str(error.value).endswith("writes here; wait for it, or choose another --out")
    assert upstream.calls == 0
    assert not (tmp_path / "asr").exists()
    train([job(accumulate=1), phones()], data, tmp_path)
    assert not any(tmp_path.rglob(".lock"))


def test_a_language_model_reads_test_alone_and_may_come_later(data, tmp_path, monkeypatch):
    pytest.importorskip("flashlight.lib.text", reason="language models need the extra `lm`")
    write_arpa(train_ngrams([text.split() for text in TEXTS], 2), tmp_path / "lm.arpa")
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)} |\n" for word in ("yes", "no", "so", "on")))
    plain = to_table(job().task_config)
    decoding = {"lm": str(tmp_path / "lm.arpa"), "lexicon": str(tmp_path / "lexicon.txt")}
    upstream, read = Upstream(), []
    first = train(job(), data, tmp_path / "out")[0]
    call = lm_beam.LMBeam.__call__
    monkeypatch.setattr(lm_beam.LMBeam, "__call__", lambda *a: read.append(len(a[1])) or call(*a))
    later = train(job(task_settings=plain | {"decoding": decoding}), data, tmp_path / "out", upstream)[0]
    assert upstream.calls == 1  # only scored again
    assert sum(read) == SIZES["test"]
    assert later.values.keys() == {"wer", "cer", "wer_lm"}
    assert {name: later.values[name] for name in first.values} == first.values
    said = {name: [line.partition(" ")[2] for line in lines] for name, lines in later.answers.items()}
    assert later.values["wer_lm"] == pytest.approx(100 * jiwer.wer(said["ref"], said["lm.hyp"]))
    assert later.values["wer"] == pytest.approx(100 * jiwer.wer(said["ref"], said["hyp"]))
    at_once = train(job(task_settings=plain | {"decoding": decoding}), data, tmp_path / "once")[0]
    assert at_once.values == later.values
    assert sum(read) == 2 * SIZES["test"]
    given = job(task_settings=plain | {"decoding": decoding | {"lm": str(tmp_path / "none.arpa")}})
    with pytest.raises(ValueError, match=r"none\.arpa: no such file, and this task is scored by it"):
        given.labels.check(data)


@pytest.mark.parametrize("name", ["heads.pt", "best_0.01.pt"])
def test_weights_that_do_not_fit_are_one_line(data, tmp_path, name):
    train(job(), data, tmp_path)
    (path,) = (tmp_path / "asr").glob(f"heads-*/{name}")
    state = torch.load(path, weights_only=True)
    weights = state["heads"][0]["weights"] if name == "heads.pt" else state
    weights["classifier.weight"] = weights["classifier.weight"][:-1]
    torch.save(state, path)
    with pytest.raises(
        ValueError, match=rf"{name}: does not fit this task \(.*size mismatch.*\); choose another"
    ) as error:
        train(job(), data, tmp_path)
    assert "\n" not in str(error.value)


class Fails(nn.Module):
    """Nothing, but for gradients of step `at` and a loss from `end` on that are not finite."""

    def __init__(self, at, end):
        super().__init__()
        self.at, self.end, self.calls = at, end, 0

    def forward(self, loss):
        self.calls += 1
        if self.calls >= self.end:
            return loss * torch.nan
        # The root of zero is finite, and its slope is not.
        return loss + (0.0 * loss).sqrt() if self.calls == self.at else loss


def train_failing(data, out, *, rates, at=0, end=99, log=None, **settings):
    """Let the head of the first rate fail."""
    plain = Head.micro_step
    fails = Fails(at, end)

    def step(self, output, batch, seed):
        if self.rate != rates[0]:
            return plain(self, output, batch, seed)
        loss = self.task.loss

        def failing(*given):
            found = loss(*given)
            return replace(found, loss_sum=fails(found.loss_sum))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.task, "loss", failing)
            return plain(self, output, batch, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Head, "micro_step", step)
        return train(job(learning_rates=rates, **settings), data, out, log=log)[0]


def test_a_gradient_that_is_not_finite_costs_one_update(data, tmp_path):
    log = []
    score = train_failing(data, tmp_path / "one", rates=[1e-2, 1e-3], at=2, log=log)
    (line,) = [line for line in log if "not finite" in line]
    assert line.startswith("asr: learning rate 0.01: the gradient of step 2 is not finite; that update is skipped")
    assert set(score.dev) == {1e-2, 1e-3}
    assert score.more == {"skipped_updates": {"0.01": 1}}
    heads = checkpoint(tmp_path / "one", "asr")["heads"]
    assert [head["skipped"] for head in heads] == [1, 0]
    assert all(torch.isfinite(value).all() for value in heads[0]["weights"].values())
    steps = {float(state["step"]) for state in heads[0]["optimizer"]["state"].values()}
    assert steps == {5.0}


@pytest.mark.parametrize("rates", [[1e-2, 1e-9], [1e-2]])
def test_a_head_that_diverges_keeps_its_best_state(data, tmp_path, rates):
    log = []
    settings = {"steps": 40, "eval_every": 10, "batch_utterances": 10}
    whole = train_failing(data, tmp_path / "whole", rates=[1e-2], **settings | {"steps": 30})
    score = train_failing(data, tmp_path / "cut", rates=rates, end=34, log=log, **settings)
    (line,) = [line for line in log if "diverges" in line]
    assert line == f"asr: learning rate 0.01 diverges at step 34; it is dropped, its best at step {whole.step} is kept"
    assert (score.learning_rate, score.step, score.values) == (1e-2, whole.step, whole.values)
    assert set(score.dev) == set(rates)


def test_copies_are_made_before_they_are_moved(data, tmp_path, monkeypatch):
    """Moving lays the weights of an LSTM in one piece, copying takes them apart."""
    laid = set()

    def lay(module):
        laid.add(module)

    monkeypatch.setattr(nn.LSTM, "flatten_parameters", lay)
    asked = Evaluation(Upstream().source, "pieces", data, 3, "cpu", print)
    heads = TaskHeads(job(learning_rates=[1e-2, 1e-3]), asked, Manifest.open(data / "train"), tmp_path).heads
    used = [module for head in heads for module in head.task.modules() if isinstance(module, nn.LSTM)]
    assert len(used) >= 2
    assert laid >= set(used)


class Torn(Task):
    """Its one weight falls by the learning rate at every step; dev would have it at 0.6875, test, where the protocol chooses, at 0.625."""

    @dataclass(frozen=True)
    class Config:
        column: str = "text"

    selects_on_test = True
    metric = ("distance", "min")
    needs = ()

    def __init__(self, config):
        super().__init__()
        self.config, self.labels = config, lambda _: {}
        self.weight = nn.Parameter(torch.ones(1))

    @classmethod
    def from_data(cls, shape, config, manifest):
        return cls(config)

    def loss(self, output, batch):
        return StepOutput(self.weight.sum(), torch.tensor(1.0))

    def predict(self, output):
        return output.lengths.tolist()

    def evaluate(self, predictions, manifest):
        return {"distance": abs(self.weight.item() - {"dev": 0.6875, "test": 0.625}[manifest.path.name])}

    def layer_shares(self):
        return torch.cat([self.weight, 1 - self.weight]).detach()


def test_the_official_row_says_whose_head_it_is_of(data, tmp_path):
    settings = {"learning_rates": [0.125, 0.0625], "steps": 5, "eval_every": 1, "num_workers": 0}
    torn = Job("torn", "torn", Torn, Torn.Config(), build(Config, settings, "superb"))
    for _ in range(2):  # and when it is read from the checkpoint
        (score,) = train(torn, data, tmp_path)
        assert (score.learning_rate, score.step) == (0.0625, 5)
        assert score.shares == pytest.approx((0.6875, 0.3125))
        assert score.values["distance"] == pytest.approx(0.0625)
        assert score.official["distance"] == pytest.approx(0, abs=1e-6)
        assert score.official_choice == Choice(0.125, 3, pytest.approx((0.625, 0.375)))
    score.write(tmp_path)
    chosen, official = read_results(tmp_path)
    assert official.name == "superb torn distance (official)"
    for row, rate, step, share in ((chosen, 0.0625, 5, 0.6875), (official, 0.125, 3, 0.625)):
        assert (row.more["learning_rate"], row.more["step"]) == (rate, step)
        assert row.more["layer_weights"][0] == pytest.approx(share)
