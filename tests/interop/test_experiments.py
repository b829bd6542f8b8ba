"""What an experiment becomes, and which have no counterpart elsewhere."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace

import pytest
import torch
from corpora import write_encoder
from interop_models import alone, ours

import audiossl
from audiossl import registry
from audiossl.config import load_toml, to_table, write_toml
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.interop.encoder import build_encoder
from audiossl.interop.experiments import open_experiment, open_frames, write_experiment
from audiossl.interop.formats import get, onnx, read_model
from audiossl.interop.model import CTCHead
from audiossl.nn.vocabulary import Vocabulary
from audiossl.train.run_finetune import load_finetuned


def fine_tuned(tmp_path, adapter, kind="hubert", **task):
    """Write a fine-tuned experiment with random weights."""
    encoder, model = ours(kind=kind)
    write_experiment(model, tmp_path / "base", source="x", file_format="fairseq")
    cls = registry.get("adapters", adapter)
    inserted = cls(cls.Config.tiny())
    inserted.insert(encoder)
    torch.manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "lora_adapter" in name and name.endswith(".up"):  # as after some training
            torch.nn.init.normal_(parameter)
    tables = {
        "encoder": model.encoder, "adapter": {"name": adapter, **to_table(cls.Config.tiny())}, "task": {"name": "ctc", **task},
        "run": {"init": str(tmp_path / "base"), "init_seed": 0},
    }  # fmt: skip
    weights = {f"encoder.{name}": value for name, value in inserted.trainable_state(encoder).items()}
    weights |= {"task.head.1.weight": torch.randn(4, 32), "task.head.1.bias": torch.randn(4)}
    save_checkpoint(tmp_path / "asr", 1, weights, {}, keep=1)
    Vocabulary("characters", ("<blank>", "<unk>", "A", "|")).save(tmp_path / "asr" / "vocabulary.json")
    write_toml(tmp_path / "asr" / "config.toml", tables)
    return tmp_path / "asr"


@pytest.mark.parametrize("adapter", ["full", "frozen"])
def test_recognisers_are_opened_with_their_encoder(tmp_path, adapter):
    experiment = fine_tuned(tmp_path, adapter)
    model = open_experiment(experiment)
    assert len(model.ctc.weight) == len(model.ctc.vocabulary) == 4
    encoder = audiossl.load(experiment)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in model.weights.items())


@pytest.mark.parametrize("opened", [open_experiment, open_frames])
def test_low_rank_updates_are_folded(tmp_path, opened):
    experiment = fine_tuned(tmp_path, "lora")
    folded = build_encoder(opened(experiment).encoder).eval()
    folded.load_state_dict(opened(experiment).weights)
    with torch.no_grad():
        expected = audiossl.load(experiment)(*alone()).layers[-1]
        found, before = (encoder(*alone()).layers[-1] for encoder in (folded, audiossl.load(tmp_path / "base")))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (before - expected).abs().max() > 0.1


def test_a_recogniser_with_low_rank_updates_computes_the_same_elsewhere(tmp_path):
    transformers = pytest.importorskip("transformers")
    module, _ = load_finetuned(fine_tuned(tmp_path, "lora", kind="wav2vec2"))
    get("transformers").write(open_experiment(tmp_path / "asr"), tmp_path / "hf")
    waveform, lengths = alone()
    with torch.no_grad():
        found = transformers.AutoModelForCTC.from_pretrained(tmp_path / "hf").eval()(waveform).logits
        logits = module.task.logits(module.encoder(waveform, lengths))
    order = [["<blank>", "<unk>", "A", "|"].index(token) for token in module.task.vocabulary.tokens]
    torch.testing.assert_close(found, logits[..., order], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("adapter", "task", "message"),
    [
        ("houlsby", {}, "has adapters"),
        ("full", {"layers": "weighted"}, "fine-tune with task.layers last"),
        ("full", {"hidden_dim": 8}, "through 8 hidden units"),
    ],
)
def test_what_exists_nowhere_else_is_refused(tmp_path, adapter, task, message):
    experiment = fine_tuned(tmp_path, adapter, **task)
    with pytest.raises(ValueError, match=message) as error:
        open_experiment(experiment)
    assert "\n" not in str(error.value)


def test_an_encoder_with_a_bias_by_distance_is_refused(tmp_path):
    write_encoder(tmp_path, alibi=True)
    with pytest.raises(ValueError, match=r"a bias by distance \(encoder.alibi\), which no format here can hold"):
        open_experiment(tmp_path)


def test_encoders_that_exist_nowhere_else_are_refused(tmp_path):
    _, model = ours()
    write_experiment(model, tmp_path / "exp", source="x", file_format="fairseq")
    write_encoder(tmp_path / "exp", "fbank")
    with pytest.raises(ValueError, match="its encoder is fbank, which no other package has"):
        open_experiment(tmp_path / "exp")


@pytest.mark.parametrize(
    ("name", "options"), [("fbank", {}), ("conformer", {}), ("vq_wav2vec", {}), ("wav2vec2", {"alibi": True})]
)
def test_any_encoder_of_waveforms_becomes_a_graph(tmp_path, monkeypatch, name, options):
    given = []
    export = importlib.import_module("audiossl.cli.export").main
    monkeypatch.setattr(onnx, "write", lambda model, _: given.append(model) or [])
    encoder = write_encoder(tmp_path / "exp", name, **options)
    assert export(str(tmp_path / "exp"), to="onnx", out=tmp_path / "x.onnx") == 0
    (model,) = given
    built = build_encoder(model.encoder)
    built.load_state_dict(model.weights)
    assert all(torch.equal(value, built.state_dict()[n]) for n, value in encoder.state_dict().items())
    with pytest.raises(ValueError, match="onnx"):
        export(str(tmp_path / "exp"), to="transformers", out=tmp_path / "hf")


@pytest.mark.parametrize("name", ["codes", "ecapa_tdnn"])
def test_what_gives_no_frames_of_waveforms_becomes_no_graph(tmp_path, name):
    write_encoder(tmp_path / "exp", name)
    with pytest.raises(
        ValueError, match=f"its encoder is {name}; only those that give frames of waveforms .* fbank"
    ) as error:
        open_frames(tmp_path / "exp")
    assert "\n" not in str(error.value)


def test_a_graph_needs_no_counterpart_of_the_output_layer(tmp_path):
    experiment = fine_tuned(tmp_path, "full", layers="weighted")
    assert open_frames(experiment).notes == ("the output layer is left behind: the graph ends with the encoder",)


def test_a_graph_has_no_adapters(tmp_path):
    with pytest.raises(ValueError, match="has adapters"):
        open_frames(fine_tuned(tmp_path, "houlsby"))


def test_a_kind_may_be_chosen(tmp_path):
    _, model = ours()
    write_experiment(model, tmp_path / "exp", source="x", file_format="fairseq")
    assert open_experiment(tmp_path / "exp").kind == "hubert"
    assert open_experiment(tmp_path / "exp", kind="wav2vec2").kind == "wav2vec2"


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("package", ["transformers", "fairseq"])
def test_fine_tuning_keeps_the_kind(tmp_path, kind, package):
    model = open_experiment(fine_tuned(tmp_path, "full", kind))
    assert (model.kind, open_experiment(tmp_path / "asr", kind="unispeech").kind) == (kind, "unispeech")
    get(package).write(model, tmp_path / package / "x")
    read = read_model(tmp_path / package / "x")[1]
    assert read.kind == kind
    assert {"A", "|"} < set(read.ctc.vocabulary.tokens)


def test_a_recogniser_on_unispeech_sat_is_hubert_for_fairseq(tmp_path):
    get("fairseq").write(open_experiment(fine_tuned(tmp_path, "full", "unispeech-sat")), tmp_path / "x.pt")
    assert read_model(tmp_path / "x.pt")[1].kind == "hubert"


@pytest.mark.parametrize("objective", ["hubert", "wav2vec2", "unispeech_sat"])
def test_fine_tuning_keeps_what_was_pretrained_here(tmp_path, objective):
    fine_tuned(tmp_path, "full")
    base, asr = (load_toml(tmp_path / name / "config.toml") for name in ("base", "asr"))
    write_toml(
        tmp_path / "base" / "config.toml", {"encoder": base["encoder"], "objective": {"name": objective}, "run": {}}
    )
    again = {**asr, "run": {"init": f"random:{tmp_path / 'asr'}", "init_seed": 0}}
    shutil.copytree(tmp_path / "asr", tmp_path / "again")
    write_toml(tmp_path / "again" / "config.toml", again)
    assert open_experiment(tmp_path / "asr").kind == objective.replace("_", "-")
    assert open_experiment(tmp_path / "again").kind == objective.replace("_", "-")


def test_imports_say_where_they_come_from_and_may_be_drawn_again(tmp_path):
    _, model = ours()
    write_experiment(replace(model, kind="wavlm"), tmp_path / "exp", source="there/x.pt", file_format="fairseq")
    run = load_toml(tmp_path / "exp" / "config.toml")["run"]
    assert (run["imported_from"], run["imported_format"], run["kind"]) == ("there/x.pt", "fairseq", "wavlm")
    drawn = audiossl.load(f"random:{tmp_path / 'exp'}")
    assert not torch.equal(drawn.projection.weight, model.weights["projection.weight"])
    with pytest.raises(ValueError, match="exists already"):
        write_experiment(model, tmp_path / "exp", source="x", file_format="fairseq")


@pytest.mark.parametrize(("kind", "column"), [("characters", "text"), ("phones", "utt2phones")])
def test_imported_recognisers_say_what_they_are_scored_by(tmp_path, kind, column):
    _, model = ours()
    head = CTCHead(Vocabulary(kind, ("<blank>", "<unk>", "A", "B")), torch.randn(4, 32), torch.randn(4))
    write_experiment(replace(model, ctc=head), tmp_path / "exp", source="x", file_format="fairseq")
    assert load_finetuned(tmp_path / "exp")[0].task.needs == (column,)
    tables = load_toml(tmp_path / "exp" / "config.toml")
    del tables["task"]["column"]  # as earlier versions wrote it, to whom all texts were in `text`
    write_toml(tmp_path / "exp" / "config.toml", tables)
    assert load_finetuned(tmp_path / "exp")[0].task.needs == ("text",)
