"""The recipes and their heads against the tables of `docs/superb.md`, cell by cell; that page is not made from the recipes."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audiossl.cli.superb import SUBVERBS
from audiossl.config import to_table
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureShape, fbank_source
from audiossl.diagnostics.subsequence_dtw import subsequence_dtw
from audiossl.nn.pooling import WeightedLayers
from audiossl.superb import pooled
from audiossl.superb.hearing import Hearing
from audiossl.superb.job import Evaluation
from audiossl.superb.recipes import task_names
from audiossl.superb.run import load_job
from audiossl.tasks.diarization import MEDIANS, THRESHOLDS

BASE = FeatureShape(dim=768, num_layers=12, stride=320, sample_rate=16_000)


PAGE = Path(__file__).parents[2] / "docs" / "superb.md"


def page_tables():
    """Tables of the page by the heading of their first two columns: rows by name, each a dictionary of cells."""
    found = {}
    for block in PAGE.read_text(encoding="utf-8").split("\n\n"):
        if block.startswith("|"):
            heading, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.split("\n")]
            found[heading[0], heading[1]] = {row[0]: dict(zip(heading, row, strict=True)) for row in rows if row}
    return found


PAGES = page_tables()
TRAINING, CHOICE = PAGES["task", "loss"], PAGES["task", "data directories"]
HEADS, FURTHER, SEEDS = PAGES["task", "projector"], PAGES["task", "settings"], PAGES["drawn", "seed"]
NONE = "–"
TRAINED = [name for name, row in TRAINING.items() if row["loss"] != NONE]
LOSSES = {
    "CTC": "ctc",
    "cross-entropy": "cross_entropy",
    "sum of three cross-entropies": "cross_entropy",
    "AM-softmax": "margin_softmax",
    "permutation-free binary cross-entropy": "permutation_free_cross_entropy",
    "permutation-free MSE of masked spectra": "permutation_free_mse",
    "label-smoothed cross-entropy": "label_smoothing",
    "L1 of log-mels": "abs",
}
"""What the method `loss` of a task calls."""
CLASSES = {
    "ks": {"utt2keyword": 12},
    "sid": {"utt2spk": 1251},
    "ic": {"utt2action": 6, "utt2object": 14, "utt2location": 4},
    "er": {"utt2emotion": 4},
}
"""Classes of the published corpora."""
OF_THE_DATA = {"asv": 2, "sf": 10, "ood": 8, "ood_zh": 8, "st": 12}
"""C of the page, for the labels of `manifest`."""
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


def test_all_tasks_are_on_the_page():
    assert len(TRAINING) == 16
    assert set(TRAINING) == set(CHOICE) == set(HEADS) == set(FURTHER) <= set(task_names())
    assert sum(name.startswith("superb_") for name in list_files()) == len(TRAINING)  # `callers`, but not `ood_zh`


@pytest.mark.parametrize("name", TRAINING)
def test_task_and_runner(name):
    job = load_job(name)
    assert (job.task_name, job.task_class.runner) == (HEADS[name]["file"], TRAINING[name]["runner"])
    if name != "ood_zh":
        assert job.task_config == job.task_class.Config(), "the recipe and the task's own defaults must agree"


def list_files():
    return [path.name for path in (Path(__file__).parents[2] / "recipes").glob("*.toml")]


def number(cell):
    return float(cell.replace(",", ""))


@pytest.mark.parametrize("name", TRAINED)
def test_training(name):
    row, job = TRAINING[name], load_job(name)
    config = job.config
    assert list(config.learning_rates) == [float(rate) for rate in row["learning rates"].split()]
    assert float(row["published rate"]) == {"pr": 1e-2, "st": 1e-3}.get(name, 1e-4)  # which no recipe holds by itself
    assert float(row["published rate"]) in config.learning_rates
    assert len(set(config.learning_rates)) == len(config.learning_rates) == 5
    assert all(1e-7 <= rate <= 1e-1 for rate in config.learning_rates)
    shown = number(row["updates"]), number(row["clip"]), number(row["look"])
    assert (config.steps, config.clip_norm, config.eval_every) == shown
    batch = [int(part) for part in row["batch × accumulated"].split(" × ")]
    if job.task_class.runner == "pooled":  # which has no reason to split a batch
        assert config.batch == batch[0] * batch[1]
    else:
        assert [config.batch_utterances, config.accumulate] == batch


SPECIFIED = re.compile(
    r"\| \*\*(?P<task>\w+).*Adam\w* (?:\(.*?\) )?(?P<rate>\de-\d), (?:.*?warm-up \d+k, )?(?P<updates>\d+)k"
    r"(?:, (?:nominal \d+ but \*\*effective )?(?P<batch>\d+)\b(?:×(?P<accumulated>\d+))?)?"
)
"""A row of the specification's tables of tasks; a batch counted in frames is left out."""


SPECIFICATION = Path(os.environ.get("AUDIOSSL_CORPORA", "none")).parent / "specs" / "superb.md"


@pytest.mark.skipif(not SPECIFICATION.is_file(), reason="no specification lies beside the folder AUDIOSSL_CORPORA")
def test_training_is_as_specified():
    """The page against the specification, so that page and recipes cannot drift together."""
    found = {}
    for line in SPECIFICATION.read_text(encoding="utf-8").splitlines():
        if told := SPECIFIED.match(line):
            name, row = told["task"].lower(), TRAINING[told["task"].lower()]
            clip, look = re.search(r"clip (\d+)", line), re.search(r" / (\d+k?)\b|\((\d+k) steps apart", line)
            found[name] = {
                "published rate": told["rate"],
                "updates": f"{1000 * int(told['updates']):,}",
                **({"batch × accumulated": f"{told['batch']} × {told['accumulated'] or 1}"} if told["batch"] else {}),
                **({"clip": clip[1]} if clip else {}),
                **({"look": f"{int((look[1] or look[2]).replace('k', '000')):,}"} if look else {}),
            }
            assert found[name].items() <= row.items()
    assert found.keys() == TRAINING.keys() - {"qbe", "se", "ood_zh"}  # nothing is trained; as `ss` and `ood`
    assert sum(map(len, found.values())) == 2 * 13 + 12 + 4 + 9  # rates and updates, batches, clips, looks


def published_classes(name):
    return getattr(load_job(name).task_class, "published_classes", None)


def told(name, *keys):
    """Settings of a task, as the specification writes numbers."""
    tables = to_table(load_job(name).config), to_table(load_job(name).task_config)
    return tuple(abs(float(next(table[key] for table in reversed(tables) if key in table))) for key in keys)


MASKS = "time_warp", "num_frequency_masks", "frequency_width", "num_time_masks", "time_width"
CELLS = {
    "pr": [(r"Linear\(D→(\d+)\)→Linear\(256", ["projector_dim"])],
    "asr": [
        (r"Linear\(D→(\d+)\)→(\d)×BLSTM (\d+), dropout ([\d.]+)", ["projector_dim", "num_layers", "hidden_dim", "dropout"]),
        (r"warp (\d+), (\d+) freq≤(\d+), (\d+) time≤(\d+)", MASKS),
    ],
    "ks": [(r"gain −(\d+)", ["gain_db"])],
    "qbe": [(r"queries <(\d+) frames", ["min_frames"]), (r"YES if >(\d)σ", ["deviations"])],
    "sid": [(r"random (\d+) s crop", ["crop_seconds"])],
    "asv": [
        (r"gain −(\d+) \+ silence trim; drop <(\d+) s", ["gain_db", "min_seconds"]),
        (r"512×4→(\d+).*mean\+std \(3000\)→Linear (\d+)", ["pooled_dim", "hidden_dim"]),
        (r"s=(\d+) m=([\d.]+)", ["scale", "margin"]),
        (r"wd ([.\d]+)\).* (\d+) s crops", ["weight_decay", "crop_seconds"]),
    ],
    "sd": [(r"LSTM (\d+) ×1→Linear (\d+)", ["hidden_dim", "speakers"]), (r"(\d+)-frame chunks", ["chunk_frames"])],
    "ss": [(r"(\d)×BLSTM 896, dropout ([.\d]+)", ["num_layers", "dropout"])],
    "st": [(r"`s2t_transformer` (\d)\+(\d) layers, label smoothing ([.\d]+)", ["encoder_layers", "decoder_layers", "label_smoothing"]), (r"beam (\d+)", ["beam"])],
}  # fmt: skip
"""What else the rows of the specification say in numbers, and the settings that hold it."""


@pytest.mark.skipif(not SPECIFICATION.is_file(), reason="no specification lies beside the folder AUDIOSSL_CORPORA")
def test_settings_and_choice_are_as_specified():
    rows = {}
    for line in SPECIFICATION.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| \*\*(\w+)\*\* `", line):
            rows.setdefault(found[1].lower(), line)
    for name, cells in CELLS.items():
        for pattern, keys in cells:
            numbers = re.search(pattern, rows[name])
            assert numbers, (name, pattern)
            assert tuple(map(float, numbers.groups())) == told(name, *keys), name
    for name in ("ks", "sid", "er"):
        assert int(re.search(r"UtteranceLevel→(\d+)", rows[name])[1]) == published_classes(name)
    chosen = {name: re.search(r"dev(?:-clean)? (?:frame |slot-type )?\**(PER|WER|acc|F1|MTWV|BLEU)|by dev (MTWV)", row) for name, row in rows.items()}  # fmt: skip
    metrics = {"acc": "accuracy", "F1": "slot_f1"}
    for name, found in chosen.items():
        if found:
            metric = found[1] or found[2]
            assert CHOICE[name]["chosen by"].split()[1] == metrics.get(metric, metric.lower()), name
    assert {name for name, found in chosen.items() if found} == {"pr", "asr", "ks", "qbe", "sid", "sd", "ic", "sf", "er", "st"}  # fmt: skip
    assert "**best test EER" in rows["asv"]
    assert CHOICE["asv"]["official"] == "rate and step"
    thresholds, medians = re.search(r"th\{\.(\d)–\.(\d)\}×median\{(\d+),(\d+)\}", rows["sd"]).group(1, 2), MEDIANS
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == tuple(int(digit) / 10 for digit in thresholds)
    assert f"median{{{medians[0]},{medians[1]}}}" in rows["sd"]
    assert float(re.search(r"random (\d+) % of \*\*utterances", rows["er"])[1]) / 100 == load_job("er").config.dev_share


def test_search_trains_nothing():
    untrained = {name: row for name, row in TRAINING.items() if name not in TRAINED}
    assert untrained.keys() == {"qbe"}
    assert set(untrained["qbe"].values()) == {"qbe", "search", NONE}
    assert set(HEADS["qbe"].values()) == {"qbe", "query_by_example", NONE}


@pytest.mark.parametrize("name", TRAINED)
def test_loss(name):
    said = TRAINING[name]["loss"]
    assert LOSSES[said] in named_in(load_job(name).task_class.loss.__code__)
    assert (said == "sum of three cross-entropies") == (len(CLASSES.get(name, ())) == 3)


def named_in(code):
    inner = [part for part in code.co_consts if hasattr(part, "co_names")]
    return {*code.co_names, *(name for part in inner for name in named_in(part))}


@pytest.mark.parametrize("name", CHOICE)
def test_choice(name, manifest):
    row, job = CHOICE[name], load_job(name)
    assert list(job.labels.parts) == row["data directories"].split()
    task = built(name, manifest)
    metric, way = task.metric
    assert f"dev {metric} {'↓' if way == 'min' else '↑'}" == row["chosen by"]
    assert (getattr(task, "shown", None) or metric) == row["told"]
    settled = "threshold and median" if getattr(task, "shown", None) else NONE
    assert ("rate and step" if getattr(task, "selects_on_test", False) else settled) == row["official"]


@pytest.mark.parametrize("name", FURTHER)
def test_further_settings(name):
    """What the page does not say is the default of the code."""
    job = load_job(name)
    said = {"task": {}, "superb": {}}
    for pair in FURTHER[name]["settings"].split("; "):
        for section, table in tomllib.loads(pair.strip("`")).items():
            said[section] |= table
    columns = {"learning_rates", "steps", "clip_norm", "eval_every", "batch", "batch_utterances", "accumulate"}
    for section, config in (("task", job.task_config), ("superb", job.config)):
        shown, plain = to_table(config), to_table(type(config)())
        assert said[section].keys() <= shown.keys()
        left = {key: value for key, value in plain.items() if section == "task" or key not in columns}
        assert {key: shown[key] for key in left} == left | said[section]


@pytest.mark.parametrize("name", HEADS)
def test_head(name, manifest):
    said, task = HEADS[name], built(name, manifest)
    if said["layers"] == NONE:
        assert not isinstance(task, nn.Module)
        return
    text = re.sub(r"\bC\b", str(OF_THE_DATA.get(name)), said["layers"])
    assert list(layers(task)) == expanded(text)
    projector = getattr(task, "projector", getattr(getattr(task, "head", None), "projector", None))
    assert (NONE if projector is None else str(projector.out_features)) == said["projector"]
    assert task.layer_shares().tolist() == pytest.approx([1 / 13] * 13)


def built(name, manifest):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{name} measures with {package}, of an extra")
    job = load_job(name)
    if job.task_class.runner == "search":
        return job.task_class(job.task_config)
    data = Classes(CLASSES[name]) if name in CLASSES else manifest
    return job.task_class.from_data(BASE, job.task_config, data)


def expanded(text):
    """Write `3 × [a, b]` out."""
    while "[" in text:
        text = re.sub(r"(\d+) × \[([^\[\]]*)\]", lambda found: ", ".join([found[2]] * int(found[1])), text)
    return text.split(", ")


def layers(task):
    """All modules that have weights, but for those of the layers; the weights of the task itself come last."""
    for module in (*list(task.modules())[1:], task):
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear | nn.LSTMCell | nn.Embedding):
            yield linear(module)
        elif isinstance(module, nn.Conv1d):
            asked = {"kernel": module.kernel_size, "stride": module.stride, "dilation": module.dilation}
            further = "".join(f" {key} {value[0]}" for key, value in asked.items() if value[0] != 1)
            yield f"Conv {module.in_channels}→{module.out_channels}{further}{unbiased(module)}"
        elif isinstance(module, nn.LSTM):
            kind, ways = ("BLSTM", 2) if module.bidirectional else ("LSTM", 1)
            for layer in range(module.num_layers):
                yield f"{kind} {ways * module.hidden_size if layer else module.input_size}→{module.hidden_size}"
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            yield f"Norm {len(module.weight)}"
        elif isinstance(module, WeightedLayers):
            assert own["layer_logits"].shape == (13,)
        elif own:
            (name,) = own
            yield f"{name.title()} {'×'.join(map(str, own[name].shape))}"


def linear(module):
    if isinstance(module, nn.Embedding):
        return f"Embedding {module.num_embeddings}→{module.embedding_dim}"
    if isinstance(module, nn.LSTMCell):
        return f"Cell {module.input_size}→{module.hidden_size}"
    return f"Linear {module.in_features}→{module.out_features}{unbiased(module)}"


def unbiased(module):
    return " without bias" if module.bias is None else ""


@dataclass(frozen=True)
class Classes:
    """Columns with as many values as a published corpus has classes. path: where they are not."""

    counts: dict[str, int]
    path: Path = Path("corpus")

    def __len__(self):
        return max(self.counts.values())

    def column(self, name):
        return [f"c{row % self.counts[name]}" for row in range(len(self))]


def test_seed():
    scoring = [verb for name, verb in SUBVERBS.items() if name == "all" or name in TRAINING]
    assert len(scoring) == 1 + len(TRAINING)
    assert {inspect.signature(verb).parameters["seed"].default for verb in scoring} == {
        int(SEEDS["heads and batches"]["seed"])
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_seed_of_the_split(seed, tmp_path, monkeypatch):
    """Dev of ER is drawn alike whatever the seed of the heads."""
    write_audio(tmp_path / "a.wav", np.full(16_000, 0.1, np.float32), 16_000)
    columns = [{"utt2emotion": "sad", "utt2session": f"x{row % 2}"} for row in range(20)]
    rows = [
        CorpusUtterance(f"a-{k:02d}", f"a-{k:02d}", tmp_path / "a.wav", "a", columns=c) for k, c in enumerate(columns)
    ]
    write_data_dir(rows, tmp_path / "all")
    drawn = []

    def fit(task, folds, *_):
        drawn.extend(folds)
        raise KeyboardInterrupt

    monkeypatch.setattr(pooled, "_fit", fit)
    evaluation = Evaluation(fbank_source(), "fbank", tmp_path, seed, "cpu", print)
    with pytest.raises(KeyboardInterrupt):
        pooled.run(load_job("er", {"superb": {"num_workers": 0}}), evaluation, tmp_path / "out")
    assert len(drawn) == 2
    for fold, first in zip(drawn, (1, 0), strict=True):
        others = np.arange(first, 20, 2)
        order = np.random.default_rng(int(SEEDS["dev of ER"]["seed"])).permutation(others)
        assert fold.dev.rows.tolist() == sorted(order[8:].tolist())  # a fifth of ten


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
    assert (config.time_warp, masks, config.time_fraction) == (5, (4, 50, 2, 40), 1.0)


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
