"""fairseq's files, against transformers' models whose tensors are renamed here by hand, and against s3prl's copies of fairseq's models where s3prl is."""

from __future__ import annotations

import argparse
import copy
import sys
from types import ModuleType

import pytest
import torch
from fairseq_files import CONFIG, as_fairseq
from interop_models import (
    alone,
    assert_read_or_refused,
    assert_same_layers,
    damaged,
    layers_of_theirs,
    ours,
    theirs,
    waveforms,
)

import audiossl
from audiossl.interop.experiments import open_experiment, write_experiment
from audiossl.interop.formats import fairseq, get, read_model
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of transformers' WavLM

KINDS = ["hubert", "wav2vec2", "wavlm", "data2vec-audio"]
SHAPES = [(kind, large) for kind in KINDS for large in (False, True) if (kind, large) != ("data2vec-audio", True)]


@pytest.mark.parametrize(("kind", "large"), SHAPES)
def test_ours_computes_what_theirs_does(tmp_path, kind, large):
    model = theirs(kind, large=large)
    config = {
        **CONFIG,
        "_name": kind.replace("-", "_"),
        "layer_norm_first": large,
        "extractor_mode": "layer_norm" if large else "default",
    }
    state = as_fairseq(model, kind, large=large)
    content = {"cfg": {"model": config, "task": {"normalize": False}}, "model": {**state, "_ema": {"x": torch.ones(1)}}}
    if kind == "wavlm":
        flat = {
            **config,
            "normalize": False,
            "relative_position_embedding": True,
            "num_buckets": 16,
            "max_distance": 20,
        }
        content = {"cfg": flat, "model": state}
    torch.save(content, tmp_path / "x.pt")
    name, read = read_model(tmp_path / "x.pt")
    assert (name, read.kind) == ("fairseq", kind)
    encoder = audiossl.load(tmp_path / "x.pt")
    assert_same_layers(encoder, layers_of_theirs(model, *alone()), *alone())
    if kind != "data2vec-audio":
        assert_same_layers(encoder, layers_of_theirs(model, *waveforms()), *waveforms())


def test_batch_norm_positions(tmp_path):
    model = theirs("hubert", conv_pos_batch_norm=True)
    state = {name: value for name, value in as_fairseq(model, "hubert").items() if "pos_conv" not in name}
    positions = model.encoder.pos_conv_embed
    state |= {f"encoder.pos_conv.0.{name}": value for name, value in positions.batch_norm.state_dict().items()}
    state |= {f"encoder.pos_conv.1.{name}": value for name, value in positions.conv.state_dict().items()}
    torch.save({"cfg": {"model": CONFIG, "task": {}}, "model": state}, tmp_path / "x.pt")
    assert read_model(tmp_path / "x.pt")[1].encoder["name"] == "mhubert"
    assert_same_layers(audiossl.load(tmp_path / "x.pt"), layers_of_theirs(model, *alone()), *alone())


def hubert_content(sizes=(9, 6), *, untied=True):
    generator = torch.Generator().manual_seed(3)
    state = as_fairseq(theirs("hubert"), "hubert")
    outputs = 8 * len(sizes) if untied else 8
    state["final_proj.weight"] = torch.randn(outputs, 32, generator=generator)
    state["final_proj.bias"] = torch.randn(outputs, generator=generator)
    state["label_embs_concat"] = torch.randn(sum(sizes), 8, generator=generator)
    return {
        "args": None,
        "cfg": {
            "model": {**CONFIG, "_name": "hubert"},
            "task": {"labels": ["km", "ph"][: len(sizes)], "label_rate": 100},
        },
        "model": state,
        "task_state": {"dictionaries": [{"symbols": ["x"] * size} for size in sizes]},
    }


@pytest.mark.parametrize("untied", [True, False])
def test_hubert_keeps_its_codewords(tmp_path, untied):
    content = hubert_content(untied=untied)
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert read.objective == {
        "name": "hubert", "labels": ["km", "ph"], "label_rate": 100.0, "temperature": 0.2, "final_dim": 8,
    }  # fmt: skip
    write_experiment(read, tmp_path / "exp", source="x", file_format="fairseq")
    back = open_experiment(tmp_path / "exp")
    assert back.kind == "hubert"
    fairseq.write(back, tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)["model"]
    expected = content["model"]
    if not untied:
        expected = expected | {n: torch.cat([expected[n]] * 2) for n in ("final_proj.weight", "final_proj.bias")}
    assert again.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.items())
    assert (tmp_path / "dict.ph.txt").read_text() == "0 1\n1 1\n"


@pytest.mark.parametrize(
    "masking", [{}, {"mask_prob": 0.8, "mask_length": 5}, {"mask_prob": 0.65, "mask_length": None}]
)
def test_masks_come_back(tmp_path, masking):
    content = hubert_content()
    content["cfg"]["model"] |= masking
    _, read = read_model(saved(content, tmp_path / "x.pt"))
    given = {key: value for key, value in masking.items() if value is not None}
    assert {key: value for key, value in read.objective.items() if key.startswith("mask")} == given
    write_experiment(read, tmp_path / "exp", source="x", file_format="fairseq")
    fairseq.write(open_experiment(tmp_path / "exp"), tmp_path / "again.pt")
    config = torch.load(tmp_path / "again.pt", weights_only=True)["cfg"]["model"]
    usual = {"mask_prob": 0.65, "mask_length": 10}
    assert {key: config[key] for key in usual} == usual | given


def test_a_dictionary_of_the_same_text_may_be_there(tmp_path):
    _, read = read_model(saved(hubert_content(), tmp_path / "x.pt"))
    fairseq.write(read, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: exists already; remove it or choose another --out$"):
        fairseq.write(read, tmp_path / "a.pt")
    fairseq.write(read, tmp_path / "b.pt")
    (tmp_path / "dict.ph.txt").write_text("0 1\n")
    with pytest.raises(ValueError, match=r"dict\.ph\.txt: exists already and belongs to another checkpoint"):
        fairseq.write(read, tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize("spectrum", ["encoder_cqt_model", "encoder_mel_model"])
@pytest.mark.parametrize("codewords", [True, False])
def test_mert_is_hubert_whose_spectral_head_is_left(tmp_path, spectrum, codewords):
    content = hubert_content()
    content["cfg"]["model"] |= {"_name": "mert", "deepnorm": False, "attention_relax": -1.0}
    content["cfg"]["task"]["sample_rate"] = 24000
    if not codewords:
        del content["model"]["label_embs_concat"]
    _, plain = read_model(saved(content, tmp_path / "plain.pt"))
    content["model"] |= {f"{spectrum}.fc.weight": torch.ones(84, 32), f"{spectrum}.spec_layer.lowpass": torch.ones(3)}
    _, read = read_model(saved(content, tmp_path / "x.pt"))
    assert (read.kind, read.encoder["sample_rate"]) == ("hubert", 24000)
    assert read.objective == plain.objective
    assert all(torch.equal(value, plain.weights[name]) for name, value in read.weights.items())
    assert any("heads are left behind" in note for note in read.notes)


def saved(content, path):
    torch.save(content, path)
    return path


def test_hubert_heads_fit_our_objective(tmp_path):
    from audiossl import registry
    from audiossl.interop.encoder import build_encoder

    torch.save(hubert_content((9,)), tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    cls = registry.get("objectives", "hubert")
    table = {key: tuple(v) if key == "labels" else v for key, v in read.objective.items() if key != "name"}
    module = cls(build_encoder(read.encoder), cls.Config(**table), (5,))
    module.load_state_dict({f"encoder.{name}": value for name, value in read.weights.items()} | read.heads)


OLD = {
    **CONFIG,
    "arch": "wav2vec2",
    "task": "audio_pretraining",
    "criterion": "wav2vec",
    "data": "/data",
    "labels": None,
}
"""What fairseq wrote before it had hydra: one table for all, in which the task is a name."""


def test_old_checkpoints_with_arguments_of_a_namespace(tmp_path):
    arguments = argparse.Namespace(**OLD, normalize=True)
    torch.save({"args": arguments, "model": as_fairseq(theirs("wav2vec2"), "wav2vec2")}, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert read.kind == "wav2vec2"
    assert read.encoder["normalise_waveform"] is True


@pytest.mark.parametrize("told", [True, False, None])
@pytest.mark.parametrize("new", [True, False])
def test_recognisers_on_old_checkpoints(tmp_path, told, new):
    model = theirs("wav2vec2")
    state = {f"w2v_encoder.w2v_model.{name}": value for name, value in as_fairseq(model, "wav2vec2").items()}
    state |= {"w2v_encoder.proj.weight": torch.randn(7, 32), "w2v_encoder.proj.bias": torch.randn(7)}
    (tmp_path / "dict.ltr.txt").write_text("| 94802\nA 51860\nB 38431\n")
    own = {} if told is None else {"normalize": told}
    outer = {"arch": "wav2vec_ctc", "task": "audio_pretraining", "criterion": "ctc", "labels": "ltr", **own}
    arguments = argparse.Namespace(**outer, w2v_args=argparse.Namespace(**OLD, normalize=True))
    content = {"args": arguments, "model": state}
    if new:
        table = {"_name": "wav2vec_ctc", "w2v_args": arguments.w2v_args}
        content = {"args": None, "cfg": {"model": table, "task": {"_name": "audio_finetuning", **own}}, "model": state}
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.kind, len(read.ctc.weight)) == ("wav2vec2", 7)
    assert read.encoder["normalise_waveform"] is (told is not False)
    if told is False:
        assert_same_layers(audiossl.load(tmp_path / "x.pt"), layers_of_theirs(model, *alone()), *alone())


@pytest.mark.parametrize("told", [True, None])
def test_a_recogniser_without_its_encoders_arguments_reads_the_task(tmp_path, told):
    inside = as_fairseq(theirs("wav2vec2"), "wav2vec2")
    state = {f"w2v_encoder.w2v_model.{name}": value for name, value in inside.items()}
    model = {"_name": "wav2vec_ctc", "w2v_args": None, "normalize": "${task.normalize}"}
    task = {} if told is None else {"normalize": told}
    torch.save({"cfg": {"model": model, "task": task}, "model": state}, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt", overrides={"num_heads": 4, "pre_norm": False})
    assert read.encoder["normalise_waveform"] is bool(told)


def sat_content(name="unispeech_sat"):
    """A file as UniSpeech-SAT's authors publish it, with the heads of its utterance-wise loss."""
    content = hubert_content((9,))
    generator = torch.Generator().manual_seed(5)
    sizes = {"quantizer.weight_proj": (10, 32), "project_q": (8, 8), "spk_proj": (8, 32)}
    heads = {f"{part}.weight": torch.randn(size, generator=generator) for part, size in sizes.items()}
    heads |= {f"{part}.bias": torch.randn(size[0], generator=generator) for part, size in sizes.items()}
    heads |= {"quantizer.vars": torch.randn(1, 10, 4, generator=generator)}
    heads |= {
        f"encoder.layer_norm_for_extract.{kind}": torch.randn(32, generator=generator) for kind in ("weight", "bias")
    }
    content["cfg"]["model"]["_name"] = name
    return {**content, "model": {**content["model"], **heads}}


def test_unispeech_sat_keeps_its_heads(tmp_path):
    content = sat_content()
    content["cfg"]["model"]["utterance_contrastive_layer"] = 1
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.kind, read.objective["name"], read.notes) == ("unispeech-sat", "unispeech_sat", ())
    assert {key: read.objective[key] for key in ("speaker_layer", "groups", "entries", "final_dim", "labels")} == {
        "speaker_layer": 1, "groups": 2, "entries": 5, "final_dim": 8, "labels": ["km"],
    }  # fmt: skip
    kept = {"codewords.0": "label_embs_concat", "quantiser.logits.weight": "quantizer.weight_proj.weight"}
    kept |= {"speaker_projection.weight": "spk_proj.weight", "target_projection.bias": "project_q.bias"}
    assert all(torch.equal(read.heads[ours], content["model"][theirs]) for ours, theirs in kept.items())
    assert_same_layers(audiossl.load(tmp_path / "x.pt"), layers_of_theirs(theirs("hubert"), *alone()), *alone())
    get("transformers").write(read, tmp_path / "hf")
    _, again = read_model(tmp_path / "hf")
    assert again.kind == "unispeech-sat"
    assert again.heads.keys() == read.heads.keys()


@pytest.mark.parametrize(("layer", "kept"), [(1, True), (2, False)])
def test_the_norm_of_unispeech_sat_is_kept_where_blocks_normalise_their_input(tmp_path, layer, kept):
    content = sat_content()
    content["model"] |= as_fairseq(theirs("hubert", large=True), "hubert", large=True)
    del (
        content["model"]["feature_extractor.conv_layers.0.2.weight"],
        content["model"]["feature_extractor.conv_layers.0.2.bias"],
    )
    content["cfg"]["model"] |= {"layer_norm_first": True, "utterance_contrastive_layer": layer}
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert ("speaker_norm.weight" in read.heads, read.objective["name"], len(read.notes)) == (
        (True, "unispeech_sat", 0) if kept else (False, "hubert", 1)
    )
    norm = content["model"]["encoder.layer_norm_for_extract.weight"]
    assert not kept or torch.equal(read.heads["speaker_norm.weight"], norm)


def test_unispeech_sat_without_codewords_has_no_heads_of_wav2vec2(tmp_path):
    content = sat_content()
    state = {name: value for name, value in content["model"].items() if name != "label_embs_concat"}
    torch.save({**content, "model": state}, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.kind, read.heads, read.objective) == ("unispeech-sat", {}, {})


@pytest.mark.parametrize("where", ["in the file", "beside it", "nowhere"])
def test_recognisers(tmp_path, monkeypatch, where):
    class Dictionary:
        symbols = None

    inside = as_fairseq(theirs("wav2vec2"), "wav2vec2")
    state = {f"w2v_encoder.w2v_model.{name}": value for name, value in inside.items()}
    state |= {"w2v_encoder.proj.weight": torch.randn(7, 32), "w2v_encoder.proj.bias": torch.randn(7)}
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]
    config = {
        "_name": "wav2vec_ctc",
        "w2v_args": {"model": {**CONFIG, "_name": "wav2vec2"}, "task": {"normalize": True}},
    }
    content = {"cfg": {"model": config, "task": {"normalize": False}}, "model": state}
    with monkeypatch.context() as patch:
        if where == "in the file":
            module = ModuleType("fairseq")
            module.Dictionary, Dictionary.__module__, Dictionary.__qualname__ = (
                Dictionary,
                module.__name__,
                "Dictionary",
            )
            patch.setitem(sys.modules, module.__name__, module)
            dictionary = Dictionary()
            dictionary.symbols = symbols
            content["task_state"] = {"target_dictionary": dictionary}
        torch.save(content, tmp_path / "x.pt")
    if where == "beside it":
        (tmp_path / "dict.ltr.txt").write_text("| 94802\nA 51860\nB 38431\n")
    _, read = read_model(tmp_path / "x.pt")
    assert read.encoder["normalise_waveform"] is False
    if where == "nowhere":
        assert read.ctc is None
        assert "left behind" in read.notes[-1]
        return
    assert read.ctc.vocabulary == Vocabulary("characters", ("<blank>", "<unk>", "<pad>", "</s>", "|", "A", "B"))
    assert torch.equal(read.ctc.weight, state["w2v_encoder.proj.weight"][[0, 3, 1, 2, 4, 5, 6]])


def test_recognisers_of_ours_come_back(tmp_path):
    _, model = ours(kind="wav2vec2")
    head = CTCHead(Vocabulary("characters", ("<blank>", "<unk>", "A", "|")), torch.randn(4, 32), torch.randn(4))
    fairseq.write(Model("wav2vec2", model.encoder, model.weights, ctc=head), tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    rows = [read.ctc.vocabulary.tokens.index(token) for token in head.vocabulary.tokens]
    assert torch.equal(read.ctc.weight[rows], head.weight)
    assert torch.equal(read.ctc.bias[rows], head.bias)
    unused = sorted(set(range(len(read.ctc.bias))) - set(rows))
    assert (read.ctc.bias[unused] < -1000).all()


@pytest.mark.parametrize(("kind", "label"), [("characters", "ltr"), ("phones", "phn"), ("words", "wrd")])
def test_what_tokens_are_comes_back(tmp_path, kind, label):
    _, model = ours(kind="wav2vec2")
    head = CTCHead(Vocabulary(kind, ("<blank>", "<unk>", "AA", "|")), torch.randn(4, 32), torch.randn(4))
    fairseq.write(Model("wav2vec2", model.encoder, model.weights, ctc=head), tmp_path / "x.pt")
    dictionary = tmp_path / f"dict.{label}.txt"
    assert dictionary.read_text() == "AA 1\n| 1\n"
    read = read_model(tmp_path / "x.pt")[1].ctc.vocabulary
    assert (read.kind, {"AA", "|"} < set(read.tokens)) == (kind, True)
    for labels in ([label], None):  # as HuBERT's task has them, and untold
        dictionary.rename(tmp_path / (f"dict.{label}.txt" if labels else "dict.ltr.txt"))
        content = torch.load(tmp_path / "x.pt", weights_only=False)
        content["cfg"]["task"]["labels"] = labels
        torch.save(content, tmp_path / "x.pt")
        assert read_model(tmp_path / "x.pt")[1].ctc.vocabulary.kind == (kind if labels else "phones")
    (tmp_path / "dict.ltr.txt").unlink()
    assert read_model(tmp_path / "x.pt")[1].notes[-1].endswith("no dict.ltr.txt beside the file tells its tokens")


def greedy(head, frames):
    """What a CTC layer writes for some frames: (frame, dim)."""
    best = torch.unique_consecutive((frames @ head.weight.T + head.bias).argmax(-1))
    return head.vocabulary.decode(best.tolist())


@pytest.mark.parametrize("first", ["fairseq", "transformers"])
@pytest.mark.parametrize("second", ["fairseq", "transformers"])
def test_imported_recognisers_keep_their_tokens_in_either_package(tmp_path, first, second):
    _, model = ours(kind="wav2vec2")
    tokens = ["<pad>", "</s>"] if first == "fairseq" else ["<s>", "</s>"]
    bias = torch.randn(6)
    bias[2:4] = -1e4
    vocabulary = Vocabulary("characters", ("<blank>", "<unk>", *tokens, "|", "A"))
    head = CTCHead(vocabulary, torch.randn(6, 32), bias)
    model = Model("wav2vec2", model.encoder, model.weights, ctc=head)
    notes = get(second).write(model, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert len(set(read.ctc.vocabulary.tokens)) == len(read.ctc.weight)
    where = [read.ctc.vocabulary.tokens.index(token) for token in ("<blank>", "<unk>", "</s>", "|", "A")]
    assert torch.equal(read.ctc.weight[where], head.weight[[0, 1, 3, 4, 5]])
    assert torch.equal(read.ctc.bias[where], head.bias[[0, 1, 3, 4, 5]])
    frames = torch.randn(200, 32)
    assert greedy(read.ctc, frames) == greedy(head, frames) != ""
    said = any("is left behind: that is the blank there" in note for note in notes)
    assert said == (first != second)  # their blanks are spelt `<s>` and `<pad>`
    lines = (tmp_path / "dict.ltr.txt").read_text() if second == "fairseq" else ""
    assert lines == ("| 1\nA 1\n" if second == "fairseq" else "")


PACKAGES = ["fairseq", "s3prl", "torchaudio"]
OPTIONS = [
    {},
    {"large": True},
    {"large": True, "normalise_waveform": True, "sample_rate": 24000, "dropout": 0.3, "layer_drop": 0.2},
    {"large": True, "normalise_waveform": True, "dropout": 0.3, "layer_drop": 0.2},
    {"conv_bias": True, "normalise_waveform": True},
    {"kind": "wav2vec2"},
]
WRITTEN = [
    (name, options) for name in PACKAGES for options in OPTIONS if name != "s3prl" or "sample_rate" not in options
]


@pytest.mark.parametrize(("format_name", "options"), WRITTEN)
def test_what_is_written_is_read_again(tmp_path, format_name, options):
    _, model = ours(**options)
    get(format_name).write(model, tmp_path / "x.pt")
    name, read = read_model(tmp_path / "x.pt")
    assert (name, read.kind) == (format_name, model.kind)
    kept = {n: v for n, v in model.weights.items() if format_name != "torchaudio" or n != "mask_emb"}
    assert all(torch.equal(value, read.weights[name]) for name, value in kept.items())
    assert read.weights.keys() == model.weights.keys()
    differing = {key for key, value in read.encoder.items() if value != model.encoder[key]}
    assert differing <= {
        "legacy_norm",
        *(("feature_grad_mult", "dropout_features") if format_name == "torchaudio" else ()),
    }


def test_wav2vec2_heads_come_back(tmp_path):
    model = theirs(
        "wav2vec2", suffix="ForPreTraining", codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=5
    )
    model.save_pretrained(tmp_path / "hf")
    _, first = read_model(tmp_path / "hf")
    for name in ("fairseq", "s3prl"):
        get(name).write(first, tmp_path / name)
        _, again = read_model(tmp_path / name)
        assert again.objective == {**first.objective, "mask_prob": 0.65, "mask_length": 10}
        assert again.heads.keys() == first.heads.keys()
        assert all(torch.equal(value, again.heads[key]) for key, value in first.heads.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_type": "conformer"}, "layer_type = 'conformer' has no counterpart"),
        *(
            ({"_name": "mert", option: True}, f"{option} = True has no counterpart here; only False can be imported")
            for option in (
                "deepnorm",
                "subln",
                "do_cnn_feat_stable_layernorm",
                "feature_extractor_cqt",
                "wav_normalize",
            )
        ),
        ({"conv_feature_layers": "[(16,10,5)] * 7"}, "says convolutions of .* frames, its weights have"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, "is not a list of"),
        ({"encoder_attention_heads": 5}, "num_heads 5"),
    ],
)
def test_what_ours_cannot_compute_is_one_line(tmp_path, change, message):
    content = {"cfg": {"model": {**CONFIG, **change}, "task": {}}, "model": as_fairseq(theirs("hubert"), "hubert")}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message) as error:
        read_model(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "wavlm"])
def test_a_projection_that_is_left_out_is_the_identity(tmp_path, kind):
    model = theirs(kind, conv_dim=(32,) * 7)
    with torch.no_grad():
        model.feature_projection.projection.weight.copy_(torch.eye(32))
        model.feature_projection.projection.bias.zero_()
    state = as_fairseq(model, kind)
    without = {name: value for name, value in state.items() if not name.startswith("post_extract_proj.")}
    assert len(without) == len(state) - 2
    config = {**CONFIG, "_name": kind, "conv_feature_layers": CONFIG["conv_feature_layers"].replace("(16", "(32")}
    if kind == "wavlm":
        config |= {"relative_position_embedding": True, "num_buckets": 16, "max_distance": 20}
    torch.save({"cfg": {"model": config, "task": {}}, "model": without}, tmp_path / "x.pt")
    assert_same_layers(audiossl.load(tmp_path / "x.pt"), layers_of_theirs(model, *alone()), *alone())


@pytest.mark.parametrize("format_name", ["fairseq", "s3prl"])
def test_only_the_identity_is_left_out(tmp_path, format_name):
    _, model = ours(kind="wav2vec2", conv_dim=32)
    with pytest.raises(
        ValueError, match="conv_dim are both 32; fairseq has no projection between such; choose another"
    ):
        get(format_name).write(model, tmp_path / "x.pt")
    same = {"projection.weight": torch.eye(32), "projection.bias": torch.zeros(32)}
    get(format_name).write(Model("wav2vec2", model.encoder, model.weights | same), tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert not any("post_extract" in name for name in content.get("model_weight", content.get("model")))
    read = read_model(tmp_path / "x.pt")[1].weights
    assert read.keys() == model.weights.keys()
    assert all(torch.equal(value, (model.weights | same)[name]) for name, value in read.items())


def test_a_projection_that_is_lacking_is_told(tmp_path):
    state = as_fairseq(theirs("wav2vec2"), "wav2vec2")
    del state["post_extract_proj.weight"], state["post_extract_proj.bias"]
    torch.save({"cfg": {"model": CONFIG, "task": {}}, "model": state}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"lacks 'projection\.weight'; it is no whole model of this family"):
        read_model(tmp_path / "x.pt")


@pytest.mark.parametrize(("name", "kind"), [("mhubert", "hubert"), ("wavlm", "hubert"), ("wav2vec2", "data2vec-audio")])
def test_what_fairseq_cannot_hold_is_refused(tmp_path, name, kind):
    _, model = ours(name, kind=kind)
    with pytest.raises(ValueError, match="cannot be held"):
        fairseq.write(model, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name", ["fairseq", "s3prl", "torchaudio"])
def test_damaged_files_are_one_line(tmp_path, format_name):
    _, model = ours()
    path = tmp_path / "x.pt"
    get(format_name).write(model, path)
    refused = [assert_read_or_refused(lambda: read_model(path), path) for _ in damaged(path)]
    assert all(refused[:4])


@pytest.mark.parametrize(
    "text",
    [
        "[(512,10,5)]*1000000000",
        "[(1,1,1)]" + "*9" * 12,
        "[(16,10,5)] + " * 90 + "[(1,1,1)]",
        "(" * 999,
        "9**9",
        "[(1,1,1e999)]",
    ],
)
def test_convolutions_that_never_end_are_refused(tmp_path, text):
    content = {
        "cfg": {"model": {**CONFIG, "conv_feature_layers": text}},
        "model": as_fairseq(theirs("hubert"), "hubert"),
    }
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="is not a list of at most 100") as error:
        read_model(tmp_path / "x.pt")
    assert len(str(error.value)) < 1000


JUNK = (None, "x", -1, 0.5, [[]], {"a": []}, torch.ones(2))


def test_configurations_of_any_content_are_one_line(tmp_path):
    path, whole = tmp_path / "x.pt", hubert_content()
    content = whole
    places = [("cfg",), ("cfg", "model"), ("cfg", "task"), ("task_state",), ("task_state", "dictionaries")]
    places += [("cfg", part, key) for part in ("model", "task") for key in content["cfg"][part]]
    for place in places:
        for value in JUNK:
            content = table = copy.deepcopy({key: table for key, table in whole.items() if key != "model"})
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = value
            torch.save({**content, "model": whole["model"]}, path)
            assert_read_or_refused(lambda: read_model(path), path)


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 4), (5, 5)])
def test_tensors_of_any_shape_are_one_line(tmp_path, shape):
    path, whole = tmp_path / "x.pt", hubert_content()
    for name in (name for name in whole["model"] if ".layers.1." not in name):
        torch.save({**whole, "model": {**whole["model"], name: torch.ones(shape)}}, path)
        assert assert_read_or_refused(lambda: read_model(path), path), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cfg": "junk"}, "cfg = 'junk' is no dict"),
        ({"cfg": {"model": {**CONFIG, "logit_temp": None}}}, "logit_temp = None is no float"),
        ({"cfg": {"model": {**CONFIG, "encoder_attention_heads": 0}}}, "num_heads: 0 is too small; give at least 1"),
    ],
)
def test_configurations_of_the_wrong_types_are_told(tmp_path, change, message):
    torch.save(hubert_content() | change, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.feature_projection.projection.weight", ()),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1", (3,)),
    ],
)
def test_tensors_of_torchaudio_of_any_shape_are_one_line(tmp_path, name, shape):
    _, model = ours()
    get("torchaudio").write(model, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert name in state
    torch.save({**state, name: torch.ones(shape)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: .* has the shape"):
        read_model(tmp_path / "x.pt")
