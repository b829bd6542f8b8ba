"""The recipes against the protocol's table, copied here by hand from the published code's settings; nothing below is computed from the recipes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from audiossl.cli.superb import SUBVERBS
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureShape
from audiossl.diagnostics.subsequence_dtw import subsequence_dtw
from audiossl.superb.hearing import Hearing
from audiossl.superb.recipes import task_names
from audiossl.superb.run import load_job
from audiossl.tasks.diarization import MEDIANS, THRESHOLDS

BASE = FeatureShape(dim=768, num_layers=12, stride=320, sample_rate=16_000)


class Row(NamedTuple):
    """A line of the table.

    rate: the default; SUPERB tunes it, so it must be among those of the recipe. updates: of the optimiser. batch: utterances of a
    micro-batch, and how many of them are in an update. clip: None where the table does not say. every: updates between two looks at dev.
    metric: what chooses, and which way. sizes: (kind, inputs, outputs) of the layers that do not depend on the data. outputs: of the last one, on the
    corpus of the task; None where the corpus says it (SF's slots, ST's characters) or nothing is trained.
    """

    task: str
    runner: str
    rate: float | None
    updates: int | None
    batch: tuple[int, int] | None
    clip: float | None
    every: int | None
    metric: tuple[str, str]
    sizes: set[tuple[str, int, int]]
    outputs: int | None = None


MEAN = {("Linear", 768, 256)}
RECURRENT = {("Linear", 768, 1024), ("BLSTM", 1024, 1024), ("BLSTM", 2048, 1024)}
X_VECTOR = {
    ("Linear", 768, 512), ("Conv1d 5/1", 512, 512), ("Conv1d 3/2", 512, 512), ("Conv1d 3/3", 512, 512),
    ("Conv1d 1/1", 512, 512), ("Conv1d 1/1", 512, 1500), ("Linear", 3000, 512), ("Linear", 512, 512),
}  # fmt: skip
MASKS = {("BLSTM", 768, 896), ("BLSTM", 1792, 896)}
TRANSLATOR = {
    ("Conv1d 5/1", 768, 1024),
    ("Conv1d 5/1", 512, 1024),
    ("Linear", 512, 512),
    ("Linear", 512, 2048),
    ("Linear", 2048, 512),
}
CONVERTER = {
    ("Linear", 768, 512), ("Conv1d 5/1", 512, 512), ("BLSTM", 512, 512), ("Linear", 80, 256), ("Linear", 256, 256), ("Linear", 1024, 1024), ("Linear", 1024, 80),
}  # fmt: skip

TABLE = {
    "pr": Row("phone_recognition", "frames", 1e-2, 100_000, (16, 2), 1.0, 1000, ("per", "min"), MEAN | {("Linear", 256, 74)}, 74),
    # A batch of 32 is halved whatever it holds.
    "asr": Row("speech_recognition", "frames", 1e-4, 200_000, (16, 1), 1.0, 2000, ("wer", "min"), RECURRENT | {("Linear", 2048, 32)}, 32),
    "ks": Row("keyword", "pooled", 1e-4, 200_000, (32, 1), None, 5000, ("accuracy", "max"), MEAN, 12),
    "qbe": Row("query_by_example", "search", None, None, None, None, None, ("mtwv", "max"), set()),
    "sid": Row("speaker", "pooled", 1e-4, 200_000, (8, 4), None, 5000, ("accuracy", "max"), MEAN, 1251),
    "asv": Row("speaker_verification", "frames", 1e-4, 200_000, (10, 5), 1000.0, 20_000, ("eer", "min"), X_VECTOR, 512),
    "sd": Row("diarization", "frames", 1e-4, 30_000, (8, 4), None, 500, ("accuracy", "max"), {("LSTM", 768, 512), ("Linear", 512, 2)}, 2),
    "ic": Row("intent", "pooled", 1e-4, 200_000, (32, 1), None, 5000, ("accuracy", "max"), MEAN, 6 + 14 + 4),
    "sf": Row("slot_filling", "frames", 1e-4, 200_000, (32, 1), None, 2000, ("slot_f1", "max"), RECURRENT),
    "er": Row("emotion", "pooled", 1e-4, 30_000, (4, 8), None, 1000, ("accuracy", "max"), MEAN, 4),
    # SUPERB-SG. The published heads have one linear layer per source, 1792 to 257.
    "se": Row("enhancement", "frames", 1e-4, 150_000, (8, 1), 1.0, 1250, ("pesq", "max"), MASKS | {("Linear", 1792, 257)}, 257),
    "ss": Row("separation", "frames", 1e-4, 150_000, (8, 1), 1.0, 2000, ("si_sdr_improvement", "max"), MASKS | {("Linear", 1792, 514)}, 514),
    "ood": Row("ood_recognition", "frames", 1e-4, 500_000, (16, 1), 1.0, 2000, ("wer", "min"), RECURRENT | {("Linear", 2048, 2048)}),
    # Its batches are 10,000 frames of 20 ms, whatever their number of utterances.
    "st": Row("speech_translation", "frames", 1e-3, 32_000, (1000, 8), 10.0, 2000, ("bleu", "max"), TRANSLATOR),
    "vc": Row("voice_conversion", "frames", 1e-4, 10_000, (6, 1), 1.0, 1000, ("mcd", "min"), CONVERTER, 80),
}  # fmt: skip
CLASSES = {
    "ks": {"utt2keyword": 12},
    "sid": {"utt2spk": 1251},
    "ic": {"utt2action": 6, "utt2object": 14, "utt2location": 4},
    "er": {"utt2emotion": 4},
}
"""Classes of the published corpora."""
NEEDS = {"se": ("pesq", "pystoi"), "st": ("sacrebleu",)}
"""Packages without which a task refuses to be built."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two utterances with every label that a task may want."""
    root = tmp_path_factory.mktemp("labels")
    write_audio(root / "a.wav", np.full(16_000, 0.1, np.float32), 16_000)
    columns = {
        "text": "GO UP", "utt2phones": "G OW1 AH1 P", "utt2slots": "GO B-way UP E-way", "utt2keyword": "up", "utt2emotion": "sad",
        "utt2clean": str(root / "a.wav"), "utt2source1": str(root / "a.wav"), "utt2source2": str(root / "a.wav"),
        "utt2action": "go", "utt2object": "one", "utt2location": "up", "utt2session": "x", "utt2turns": "a 0 0.5 b 0.2 1",
        "utt2translation": "Geh hinauf.", "utt2target": str(root / "a.wav"),
    }  # fmt: skip
    rows = [CorpusUtterance(f"{who}-1", f"{who}-1", root / "a.wav", who, columns=columns) for who in "ab"]
    write_data_dir(rows, root / "data")
    return Manifest.open(root / "data")


def test_all_tasks_have_a_recipe():
    assert set(TABLE) <= set(task_names())


@pytest.mark.parametrize("name", sorted(TABLE))
def test_task_and_runner(name):
    job = load_job(name)
    assert (job.task_name, job.task_class.runner) == (TABLE[name].task, TABLE[name].runner)
    assert job.task_config == job.task_class.Config(), "the recipe and the task's own defaults must agree"


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.updates])
def test_training(name):
    row, config = TABLE[name], load_job(name).config
    assert row.rate in config.learning_rates
    assert len(set(config.learning_rates)) == len(config.learning_rates) == 5
    assert all(1e-7 <= rate <= 1e-1 for rate in config.learning_rates)
    assert (config.steps, config.eval_every) == (row.updates, row.every)
    if row.runner == "pooled":  # which has no reason to split a batch
        assert config.batch == row.batch[0] * row.batch[1]
    else:
        assert (config.batch_utterances, config.accumulate) == row.batch
        assert (config.optimizer, config.weight_decay) == {
            "asv": ("adamw", 0.01),
            "vc": ("adamw", 0.0),
        }.get(name, ("adam", 0.0))
        assert config.epsilon == (1e-7 if name in {"se", "ss", "vc"} else 1e-8)
        schedules = {"st": ("inverse_sqrt", 10_000), "vc": ("linear", 4000)}
        assert (config.schedule, config.warmup_steps) == schedules.get(name, ("constant", 0))
        assert config.choose_from == (4000 if name == "vc" else 0)
    assert row.clip is None or config.clip_norm == row.clip


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.sizes])
def test_head(name, manifest):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{name} measures with {package}, of an extra")
    job = load_job(name)
    task = job.task_class.from_data(BASE, job.task_config, manifest)
    assert tuple(task.metric) == TABLE[name].metric
    assert TABLE[name].sizes <= set(sizes(task))
    shares = task.layer_shares()
    assert shares.tolist() == pytest.approx([1 / 13] * 13)


@dataclass(frozen=True)
class Classes:
    """Columns with as many values as a published corpus has classes. path: where they are not."""

    counts: dict[str, int]
    path: Path = Path("corpus")

    def __len__(self):
        return max(self.counts.values())

    def column(self, name):
        return [f"c{row % self.counts[name]}" for row in range(len(self))]


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.outputs])
def test_outputs(name, manifest):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{name} measures with {package}, of an extra")
    job = load_job(name)
    task = job.task_class.from_data(BASE, job.task_config, Classes(CLASSES[name]) if name in CLASSES else manifest)
    last = [module for module in task.modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == TABLE[name].outputs


def test_seed():
    scoring = [verb for name, verb in SUBVERBS.items() if name == "all" or name in TABLE]
    assert len(scoring) == 1 + len(TABLE)
    assert {inspect.signature(verb).parameters["seed"].default for verb in scoring} == {1337}


def sizes(task):
    for module in task.modules():
        if isinstance(module, nn.Linear):
            yield "Linear", module.in_features, module.out_features
        elif isinstance(module, nn.Conv1d):
            yield f"Conv1d {module.kernel_size[0]}/{module.dilation[0]}", module.in_channels, module.out_channels
        elif isinstance(module, nn.LSTM):
            kind = "BLSTM" if module.bidirectional else "LSTM"
            for layer in range(module.num_layers):
                width = module.hidden_size * (2 if module.bidirectional else 1)
                yield kind, module.input_size if layer == 0 else width, module.hidden_size


def test_what_training_draws():
    assert load_job("ks").config.sampling == "balanced"
    assert load_job("ks").config.gain_db == -3.0
    assert load_job("sid").config.crop_seconds == 8.0
    assert load_job("sid").config.crops > 0
    assert load_job("asv").task_config.crop_seconds == 8.0
    assert Hearing.of(load_job("asv").task_config) == Hearing(8.0, 0, -3.0, trim_silence=True, min_seconds=2.0)
    assert Hearing.of(load_job("sd").task_config) == Hearing(chunk_frames=2000)
    for name in ("pr", "asr", "sf", "se", "ss", "ood", "st", "vc"):
        assert Hearing.of(load_job(name).task_config) == Hearing()
    er = load_job("er").config
    assert (er.folds, er.dev_share) == ("utt2session", 0.2)


@pytest.mark.parametrize("name", ["asr", "sf", "ood"])
def test_recurrent_heads(name):
    config = load_job(name).task_config
    assert config.dropout == 0.2
    masks = config.num_frequency_masks, config.frequency_width, config.num_time_masks, config.time_width
    assert (config.time_warp, masks) == (5, (4, 50, 2, 40))


def test_verification():
    job = load_job("asv")
    assert (job.task_config.scale, job.task_config.margin) == (30.0, 0.4)
    assert job.task_class.selects_on_test


def test_diarization():
    assert (THRESHOLDS, MEDIANS) == ((0.3, 0.4, 0.5, 0.6, 0.7), (1, 11))
    job = load_job("sd")
    assert job.task_class.shown == "der"
    assert not job.task_class.selects_on_test  # the step; threshold and median are chosen on test too, by `settle`
    settings = {f"der_{threshold}_{median}": 50.0 for threshold in THRESHOLDS for median in MEDIANS}
    task = job.task_class.from_data(BASE, job.task_config, None)
    found = task.settle(settings | {"der_0.3_1": 10.0}, settings | {"der_0.7_11": 20.0})
    assert (found.values["der"], found.official["der"]) == (50.0, 20.0)


def test_masks():
    for name, columns, metrics in (
        ("se", ("utt2clean",), ("pesq", "stoi", "si_sdr_improvement")),
        ("ss", ("utt2source1", "utt2source2"), ("si_sdr_improvement",)),
    ):
        config = load_job(name).task_config
        assert (config.num_layers, config.dropout) == (3, 0.5)
        assert (config.columns, config.metrics) == (columns, metrics)


def test_translation():
    config = load_job("st").task_config
    assert (config.encoder_layers, config.decoder_layers, config.beam, config.label_smoothing) == (3, 3, 20, 0.1)
    assert (config.tokenizer, config.bpe_size) == ("13a", 0)
    assert load_job("st").config.batch_seconds == 10_000 * 0.02


def test_conversion():
    job = load_job("vc")
    assert (job.task_config.encoder, job.task_config.prenet_dims, job.task_config.cells) == ("tacotron2", (256, 256), 2)
    assert (job.task_config.recogniser, job.task_config.verifier) == ("", "")
    assert job.task_class.selects_on_test


def test_search():
    config = load_job("qbe").task_config
    assert (config.distance, config.min_max, config.min_frames, config.deviations) == ("cosine_exp", True, 5, 2.0)
    assert config.gain_db == -3.0
    assert load_job("qbe").task_class.metric == TABLE["qbe"].metric
    assert load_job("qbe").config.layers == ()  # all are tried, and dev chooses one
    # exp(distance) - 1 of cosines, each query frame from 0 to 1, steps of one query frame over at most two document frames, ends open.
    query, document = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.2], [1.0, 0.1], [0.3, 1.0], [-1.0, 0.0]])
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, document)]
    costs = np.exp(1 - unit[0] @ unit[1].T) - 1
    costs = (costs - costs.min(axis=1, keepdims=True)) / np.ptp(costs, axis=1, keepdims=True)
    ways = [costs[0, first] + costs[1, first + gap] for first in range(4) for gap in range(3) if first + gap < 4]
    found = subsequence_dtw(
        [torch.from_numpy(query)], [torch.from_numpy(document)], distance=config.distance, min_max=config.min_max
    )
    assert found.item() == pytest.approx(min(ways) / 2)


def test_pr_and_asr_share_a_stream():
    assert load_job("pr").stream == load_job("asr").stream is not None
