"""The whole chain through the real command on a tiny corpus, and what can be done with what it leaves behind."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chain_runs import RECIPE, UNITS, losses, make_data, write_recipe
from command import audiossl, succeed

import audiossl as package
from audiossl.config import load_toml, write_toml
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.results import read_results
from audiossl.interop.checkpoint import list_checkpoints
from audiossl.nn.attention import NoAdapter
from audiossl.objectives.hubert import HuBERT
from audiossl.registry import get

SMALL = ["--encoder.num_layers", "2", "--encoder.dim", "32", "--encoder.ffn_dim", "64", "--encoder.conv_dim", "16"]
SMALL += ["--objective.crop_duration", "0.5", "--data.batch_seconds", "4", "--data.num_workers", "0"]
SMALL += ["--data.min_duration", "0.2", "--data.crop_duration", "0.5", "--units.num_workers", "0"]
SMALL += ["--units.clusters", "8", "--optim.warmup_steps", "2", "--train.precision", "fp32"]
SMALL += ["--train.max_steps", "4", "--train.tensorboard", "false", "--device", "cpu"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Recordings -> MFCC units -> it1 -> units of its layer 1 -> it2 -> adapters for CTC."""
    root = tmp_path_factory.mktemp("chain")
    made = SimpleNamespace(root=root, train=make_data(root / "train"), dev=make_data(root / "dev", 6, seed=1))
    made.it1, made.it2, made.asr, made.km = (root / "exp" / name for name in ("it1", "it2", "asr", "km"))
    data = ["--data", made.train, "--dev", made.dev]
    _, made.said = succeed("pretrain", "hubert_nano", *data, "--out", made.it1, *SMALL)
    fit = ["--encoder", made.it1, "--layer", "1", "--clusters", "6", "--num-workers", "0", "--device", "cpu"]
    succeed("units", "fit", "--data", made.train, "--out", made.km, *fit)
    label = ["--codebook", made.km, "--name", "l1", "--num-workers", "0", "--device", "cpu"]
    succeed("units", "apply", "--data", made.train, made.dev, *label)
    made.second = write_recipe(root, RECIPE.replace(UNITS, ""))
    tables = load_toml(made.second)
    tables["objective"] |= {"labels": ["l1"], "label_rate": 25.0}
    tables["encoder"] = {**load_toml(made.it1 / "config.toml")["encoder"], "layer_drop": 0.1}
    write_toml(made.second, tables)
    succeed("pretrain", made.second, *data, "--init", made.it1, "--out", made.it2, "--device", "cpu")
    adapters = ["--init", made.it2, *data, "--out", made.asr, "--device", "cpu", "--train.tensorboard", "false"]
    adapters += ["--train.max_steps", "4", "--train.eval_every", "2", "--train.precision", "fp32"]
    succeed("finetune", "ctc_adapters_nano", *adapters, "--data.num_workers", "0", "--adapter.bottleneck", "4")
    return made


def test_each_experiment_is_whole(chain):
    for experiment, steps in ((chain.it1, 4), (chain.it2, 6), (chain.asr, 4)):
        assert [step for step, _ in losses(experiment)] == list(range(1, steps + 1))
        assert list_checkpoints(experiment)
        assert load_toml(experiment / "config.toml")["run"]["data_utterances"] == 12
    assert len(losses(chain.it1, "dev")) == 1
    assert not (chain.it1 / "tensorboard").exists()
    small = (list_checkpoints(chain.asr)[-1] / "model.safetensors").stat().st_size
    assert small < (list_checkpoints(chain.it2)[-1] / "model.safetensors").stat().st_size / 2


def test_the_log_line_is_short(chain):
    [line] = [line for line in chain.said.splitlines() if line.startswith("step 4/4")]
    words = line.split()[2:]
    assert words[::2][:6] == ["loss", "masked_accuracy", "lr", "grad_norm", "audio_s_per_s", "left"]
    row = json.loads((chain.it1 / "metrics.jsonl").read_text().splitlines()[0])
    assert {"embedding_std", "target_perplexity", "masked_bits"} <= row.keys()


def test_transcribe_a_directory_and_a_recording(chain, tmp_path):
    loose = chain.root / "dev" / "audio" / "000.wav"
    words = ["transcribe", chain.asr, chain.dev, loose, "--num-workers", "0", "--device", "cpu"]
    out, _ = succeed(*words, "--json", "--out", tmp_path / "text")
    said = json.loads(out)
    assert len(said["texts"]) == 7
    assert said["texts"][str(loose)] == said["texts"]["s0-000"]
    assert len((tmp_path / "text").read_text().splitlines()) == 7
    kept = {result.name: result for result in read_results(chain.asr)}
    assert kept["WER data"].value == pytest.approx(said["scores"][str(chain.dev)]["wer"])
    assert (kept["CER data"].unit, kept["CER data"].seed) == ("%", 0)
    shown, _ = succeed("report", chain.asr)
    assert "WER data" in shown


def test_probe_and_unit_quality_are_reported(chain, tmp_path):
    # The corpus is too small to tell words apart; two speakers it has.
    probe = ["probe", chain.it2, "--task", "speaker", "--train", chain.train, "--split", "0.5/0.25/0.25"]
    probe += ["--out", chain.it2 / "probe", "--num-workers", "0", "--device", "cpu", "--probe.steps", "20"]
    succeed(*probe, "--probe.batch", "4")
    succeed("units", "quality", "--data", chain.train, "--name", "l1", "--out", chain.it2, "--label", "layer 1")
    names = {result.name for result in read_results(chain.it2)}
    assert names == {f"{name} layer 1" for name in ("PNMI", "phone purity", "cluster purity", "code perplexity")}
    page = tmp_path / "report.html"
    out, _ = succeed("report", chain.it1, chain.it2, "--out", page, "--data", chain.train, "--units", "l1")
    for wanted in ("PNMI layer 1", "probe spk accuracy"):
        assert wanted in out
        assert wanted in page.read_text()
    status, _, err = audiossl("units", "quality", "--data", chain.train, "--name", "l1", "--label", "x")
    assert (status, err) == (1, "audiossl: --label x: names results that are kept; add --out EXPERIMENT\n")


def test_config_of_an_experiment_repeats_it(chain, tmp_path):
    for experiment in (chain.it1, chain.it2):
        again = tmp_path / experiment.name
        succeed("pretrain", experiment / "config.toml", "--out", again, "--device", "cpu")
        assert losses(again) == losses(experiment)
        assert losses(again, "dev") == losses(experiment, "dev")
    succeed("finetune", chain.asr / "config.toml", "--out", tmp_path / "asr", "--device", "cpu")
    assert losses(tmp_path / "asr") == losses(chain.asr)
    # Another encoder than that of the experiment is no change of its weights.
    succeed("finetune", chain.asr / "config.toml", "--init", chain.it1, "--out", tmp_path / "other", "--device", "cpu")


def test_shards_give_the_same_batches_and_the_same_run(chain, tmp_path):
    shards = tmp_path / "shards"
    succeed("data", "shard", chain.train, shards)
    cls = get("encoders", "fbank")
    objective = HuBERT.from_data(cls(cls.Config.tiny()), HuBERT.Config(labels=("l1",), label_rate=25.0), chain.train)
    config = LoaderConfig(batch_seconds=2.0, num_workers=0)
    sources = (Manifest.open(chain.train), Manifest.open(shards))
    streams = [make_loader(s, objective, config, sample_rate=16_000, seed=0, positions=range(12)) for s in sources]
    for one, other in zip(*streams, strict=True):
        assert one.keys() == other.keys()
        assert one["utt_ids"] == other["utt_ids"]
        assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))
    succeed(
        "pretrain", chain.second, "--data", shards, "--dev", chain.dev, "--init", chain.it1, "--out", tmp_path / "e",
        "--device", "cpu",
    )  # fmt: skip
    assert losses(tmp_path / "e") == losses(chain.it2)


def test_load(chain, monkeypatch):
    waveform, lengths = 0.1 * torch.randn(1, 8000), torch.tensor([8000])

    def top(source):
        encoder = package.load(source)
        assert not encoder.training
        with torch.no_grad():
            return encoder(waveform, lengths).layers[-1]

    trained = top(chain.it2)
    assert torch.equal(top(str(list_checkpoints(chain.it2)[-1])), trained)
    assert not torch.equal(top(list_checkpoints(chain.it2)[0]), trained)
    monkeypatch.setenv("AUDIOSSL_EXP", str(chain.root / "exp"))
    assert torch.equal(top("it2"), trained)
    tuned = package.load(chain.asr)
    assert not isinstance(tuned.transformer.layers[0].ffn_adapter, NoAdapter)
    assert not torch.equal(top(chain.asr), trained)
    random = top("random:it2")
    assert torch.equal(top("random:it2"), random)
    assert not torch.equal(random, trained)
    for source, message in (
        ("it3", "it3: no such experiment or checkpoint"),
        (chain.train, "is neither an experiment"),
        ("random:it3", "it3: no such experiment"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            package.load(source)
        assert "\n" not in str(caught.value)


def test_a_start_that_does_not_fit_is_one_line(chain, tmp_path):
    words = ["pretrain", chain.second, "--data", chain.train, "--out", tmp_path / "e", "--device", "cpu"]
    status, _, err = audiossl(*words, "--init", chain.it1, "--encoder.dim", "16")
    assert status == 1
    assert "does not fit the recipe's [encoder]" in err.splitlines()[-1]
    assert not (tmp_path / "e").exists()


def test_damaged_checkpoints_are_one_line(chain, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(chain.it2, copy)
    weights = list_checkpoints(copy)[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: np.random.default_rng(0).integers(weights.stat().st_size)])
    status, _, err = audiossl("pretrain", chain.second, "--out", copy, "--resume", "--device", "cpu")
    assert status == 1
    assert f"{weights}: is damaged" in err.splitlines()[-1]
    with pytest.raises(ValueError, match="is damaged"):
        package.load(copy)
    shutil.rmtree(weights.parent)
    succeed("pretrain", chain.second, "--out", copy, "--resume", "--device", "cpu")
    assert losses(copy) == losses(chain.it2)
