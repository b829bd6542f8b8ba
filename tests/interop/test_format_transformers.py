"""Folders of transformers, both ways: what it computes from ours and we from its, layer by layer."""

from __future__ import annotations

import json

import pytest
import torch
from interop_models import (
    KERNELS_25HZ,
    STRIDES_25HZ,
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
from audiossl.interop.formats import read_model
from audiossl.interop.formats.transformers import WEIGHTS, write
from audiossl.interop.keys import old_weight_norm
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of transformers' WavLM

KINDS = ["hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"]
SHAPES = [(kind, large) for kind in KINDS for large in (False, True) if (kind, large) != ("data2vec-audio", True)]
VOCABULARY = Vocabulary("characters", ("<blank>", "<unk>", "'", "A", "B", "|", "É"))
JUNK = (None, "x", -1, 0, 0.5, [[]], {"a": []})


@pytest.mark.parametrize(("kind", "large"), SHAPES)
def test_ours_computes_what_theirs_does(tmp_path, kind, large):
    model = theirs(kind, large=large)
    model.save_pretrained(tmp_path / "hf")
    name, read = read_model(tmp_path / "hf")
    assert (name, read.kind) == ("transformers", kind)
    (note,) = read.notes
    assert "no preprocessor_config.json" in note
    write_experiment(read, tmp_path / "exp", source="hf", file_format=name)
    encoder = audiossl.load(tmp_path / "exp")
    normalise = large or kind == "data2vec-audio"  # no preprocessor says otherwise
    assert_same_layers(encoder, layers_of_theirs(model, *alone(), normalise=normalise), *alone())
    if kind != "data2vec-audio":  # its positions hear padding, ours never do
        assert_same_layers(encoder, layers_of_theirs(model, *waveforms(), normalise=normalise), *waveforms())


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("hubert", "wav2vec2", {}),
        ("wav2vec2", "wav2vec2", {}),
        ("hubert", "wav2vec2", {"large": True}),
        ("wav2vec2", "wav2vec2", {"large": True}),
        ("hubert", "wav2vec2", {"conv_bias": True}),
        ("hubert", "mhubert", {}),
        ("wavlm", "wavlm", {}),
        ("wavlm", "wavlm", {"large": True}),
        *((kind, "wav2vec2", {"large": large}) for kind in ("unispeech", "unispeech-sat") for large in (False, True)),
        ("data2vec-audio", "wav2vec2", {"conv_norm": "layer", "position_kernel": 5, "position_depth": 3}),
    ],
)
def test_theirs_computes_what_ours_does(tmp_path, kind, name, options):
    import transformers

    encoder, model = ours(name, kind=kind, **options)
    assert write(model, tmp_path / "hf") == []
    loaded, said = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert_same_layers(encoder, layers_of_theirs(loaded.eval(), *alone()), *alone())
    again = read_model(tmp_path / "hf")[1]
    assert {n: v for n, v in again.encoder.items() if v != model.encoder[n]}.keys() <= {
        "legacy_norm",
        "feature_grad_mult",
    }
    assert all(torch.equal(value, model.weights[name]) for name, value in again.weights.items())
    assert again.weights.keys() == model.weights.keys()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_frames_of_25_hz(tmp_path, batch_norm):
    import transformers

    shape = {"conv_dim": (16,) * 8, "conv_kernel": KERNELS_25HZ, "conv_stride": STRIDES_25HZ}
    model = theirs("hubert", conv_pos_batch_norm=batch_norm, **shape)
    model.save_pretrained(tmp_path / "hf")
    name, read = read_model(tmp_path / "hf")
    write_experiment(read, tmp_path / "exp", source="hf", file_format=name)
    encoder = audiossl.load(tmp_path / "exp")
    assert (encoder.stride, encoder.num_frames(80_000)) == (640, 124)
    expected = layers_of_theirs(model, *alone())
    assert expected[0].shape[1] == encoder.num_frames(alone()[0].shape[1]) == 12
    assert_same_layers(encoder, expected, *alone())
    write(open_experiment(tmp_path / "exp"), tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again").eval()
    assert type(again) is type(model)
    assert_same_layers(encoder, layers_of_theirs(again, *alone()), *alone())


HEADS = ["ForXVector", "ForSequenceClassification", "ForAudioFrameClassification"]
LEFT = [(kind, suffix) for kind in ("wav2vec2", "wavlm", "unispeech-sat", "data2vec-audio") for suffix in HEADS]


@pytest.mark.parametrize(("kind", "suffix"), [*LEFT, ("unispeech", "ForPreTraining")])
def test_heads_of_speakers_and_classes_are_left_behind(tmp_path, kind, suffix):
    sizes = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 5, "num_clusters": 9}
    model = theirs(kind, suffix=suffix, **(sizes if suffix == "ForPreTraining" else {}))
    model.save_pretrained(tmp_path)
    _, read = read_model(tmp_path)
    (note,) = (note for note in read.notes if "preprocessor" not in note)
    assert "tensors of heads are left behind" in note
    assert (read.heads, read.objective) == ({}, {})
    normalise = kind == "data2vec-audio"
    expected = layers_of_theirs(model.base_model, *alone(), normalise=normalise)
    assert_same_layers(audiossl.load(tmp_path), expected, *alone())


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_one_file_of_a_folder_is_sent_to_the_folder(tmp_path, name):
    _, model = ours()
    write(model, tmp_path / "hf")
    with pytest.raises(ValueError, match="is one file of a model of transformers; give its folder, ") as error:
        audiossl.load(tmp_path / "hf" / name)
    assert str(error.value).endswith(str(tmp_path / "hf"))


def test_the_old_spelling_of_weight_norm_in_a_pickle_is_read(tmp_path):
    from safetensors.torch import load_file

    model = theirs("hubert")
    model.save_pretrained(tmp_path)
    old = old_weight_norm(load_file(tmp_path / WEIGHTS))
    assert "encoder.pos_conv_embed.conv.weight_g" in old
    (tmp_path / WEIGHTS).unlink()
    torch.save(old, tmp_path / "pytorch_model.bin")
    assert_same_layers(audiossl.load(tmp_path), layers_of_theirs(model, *alone()), *alone())


def test_wav2vec2_keeps_its_quantiser(tmp_path):
    import transformers

    from audiossl import registry
    from audiossl.interop.encoder import build_encoder

    sizes = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 5}
    model = theirs("wav2vec2", suffix="ForPreTraining", **sizes)
    model.save_pretrained(tmp_path / "hf")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "hf")
    _, read = read_model(tmp_path / "hf")
    assert read.notes == ()
    assert read.encoder["normalise_waveform"] is True
    write_experiment(read, tmp_path / "exp", source="hf", file_format="transformers")
    back = open_experiment(tmp_path / "exp")

    cls = registry.get("objectives", "wav2vec2")
    table = {key: value for key, value in back.objective.items() if key != "name"}
    objective = cls(build_encoder(back.encoder), cls.Config(**table)).eval()
    objective.load_state_dict({f"encoder.{name}": value for name, value in back.weights.items()} | back.heads)
    frames = torch.randn(11, 16)
    with torch.no_grad():
        expected = model.project_q(model.quantizer(frames[None])[0])[0]
        found = objective.project_target(objective.quantiser(frames, 1.0).q)
        context = torch.randn(3, 32)
        torch.testing.assert_close(objective.project_context(context), model.project_hid(context))
    torch.testing.assert_close(found, expected)

    write(back, tmp_path / "again")
    loaded = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("large", [False, True])
def test_unispeech_sat_keeps_both_heads(tmp_path, large):
    import transformers

    from audiossl import registry
    from audiossl.interop.encoder import build_encoder

    sizes = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 5, "num_clusters": 9}
    model = theirs("unispeech-sat", suffix="ForPreTraining", large=large, **sizes)
    model.save_pretrained(tmp_path / "hf")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=large).save_pretrained(tmp_path / "hf")
    _, read = read_model(tmp_path / "hf")
    assert read.notes == ()
    write_experiment(read, tmp_path / "exp", source="hf", file_format="transformers")
    back = open_experiment(tmp_path / "exp")

    cls = registry.get("objectives", "unispeech_sat")
    table = {key: value for key, value in back.objective.items() if key != "name"}
    objective = cls(build_encoder(back.encoder), cls.Config(**table, speaker_layer=1), (5,)).eval()
    objective.load_state_dict({f"encoder.{name}": value for name, value in back.weights.items()} | back.heads)
    frames = torch.randn(11, 32)
    with torch.no_grad():
        inner = model.layer_norm_for_extract(frames) if large else frames
        torch.testing.assert_close(objective.speaker_norm(frames), inner)
        torch.testing.assert_close(objective.speaker_projection(inner), model.speaker_proj(inner))
        expected = model.project_q(model.quantizer(inner[None])[0])[0]
        torch.testing.assert_close(objective.target_projection(objective.quantiser(inner, 1.0).q), expected)
        torch.testing.assert_close(objective.projections[0](frames), model.project_hid(frames))
    assert torch.equal(objective.codewords[0], model.label_embeddings_concat)

    write(back, tmp_path / "again")
    loaded, said = transformers.UniSpeechSatForPreTraining.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    unused = () if large else ("layer_norm_for_extract.weight", "layer_norm_for_extract.bias")
    same = {name: value for name, value in model.state_dict().items() if name not in unused}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in same.items())


@pytest.mark.parametrize("kind", KINDS)
def test_recognisers_both_ways(tmp_path, kind):
    from audiossl.train.run_finetune import load_finetuned

    options = {"conv_norm": "layer", "position_kernel": 5, "position_depth": 3} if kind == "data2vec-audio" else {}
    _, model = ours("wavlm" if kind == "wavlm" else "wav2vec2", kind=kind, **options)
    bias = torch.randn(7)
    bias[0] = -100.0  # the blank: something is written, whatever the weights
    head = CTCHead(VOCABULARY, torch.randn(7, 32), bias)
    assert write(Model(kind, model.encoder, model.weights, ctc=head), tmp_path / "hf") == []
    _, read = read_model(tmp_path / "hf")
    assert read.ctc.vocabulary == VOCABULARY
    write_experiment(read, tmp_path / "exp", source="hf", file_format="transformers")
    module, _ = load_finetuned(tmp_path / "exp")
    waveform, lengths = alone()
    predicted = module.predict({"waveform": waveform, "waveform_lengths": lengths})

    import transformers

    recogniser = transformers.pipeline("automatic-speech-recognition", str(tmp_path / "hf"), device="cpu")
    logits = recogniser.model(waveform).logits
    torch.testing.assert_close(module.task.logits(module.encoder(waveform, lengths)), logits, atol=1e-5, rtol=1e-5)
    assert recogniser(waveform[0].numpy())["text"].split() == predicted[0].split()
    assert predicted[0]
    assert open_experiment(tmp_path / "exp").kind == kind
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    assert isinstance(processor, transformers.Wav2Vec2Processor)


def test_a_recogniser_of_fairseq_computes_the_same_in_transformers(tmp_path):
    import transformers

    encoder, model = ours(kind="wav2vec2")
    bias = torch.tensor([-100.0, -1e4, -1e4, -1e4, 0.0, 0.0, 0.0])
    tokens = ("<blank>", "<unk>", "<pad>", "</s>", "|", "A", "B")
    head = CTCHead(Vocabulary("characters", tokens), torch.randn(7, 32), bias)
    (note,) = write(Model("wav2vec2", model.encoder, model.weights, ctc=head), tmp_path / "hf")
    assert "token <pad> is left behind" in note
    recogniser = transformers.pipeline("automatic-speech-recognition", str(tmp_path / "hf"), device="cpu")
    waveform, lengths = alone()
    with torch.no_grad():
        logits = encoder(waveform, lengths).layers[-1] @ head.weight.T + head.bias
        found = recogniser.model(waveform).logits
    torch.testing.assert_close(found, logits[..., [0, 1, 3, 4, 5, 6]], atol=1e-4, rtol=1e-4)
    said = head.vocabulary.decode(torch.unique_consecutive(logits[0].argmax(-1)).tolist())
    assert recogniser(waveform[0].numpy())["text"].split() == said.split() != []


def test_their_tokens_are_put_in_our_order(tmp_path):
    model = theirs("wav2vec2", suffix="ForCTC", pad_token_id=2)
    model.save_pretrained(tmp_path)
    tokens = ["A", "|", "[PAD]", "B", "<s>", "C", "[UNK]"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]"}))
    _, read = read_model(tmp_path)
    assert read.ctc.vocabulary.tokens == ("<blank>", "<unk>", "A", "|", "B", "<s>", "C")
    assert read.ctc.vocabulary.kind == "characters"
    assert torch.equal(read.ctc.weight, model.lm_head.weight[[2, 6, 0, 1, 3, 4, 5]])


CHINESE, DIGRAPHS, SPELT = (
    ["<pad>", "<unk>", *"一二三四"],
    ["<pad>", "<unk>", "|", "A", "B", "CH"],
    [*"ABC|", "<pad>", "<s>"],
)


def recogniser(folder, tokens, settings=None, **config):
    """Write a `...ForCTC` with a tokenizer; returns the model."""
    model = theirs("wav2vec2", suffix="ForCTC", vocab_size=len(tokens), pad_token_id=tokens.index("<pad>"), **config)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def letters_read(folder):
    """What is read of one row after the other, but for blank and unknown: (kind, text)."""
    vocabulary = read_model(folder)[1].ctc.vocabulary
    return vocabulary.kind, vocabulary.decode(range(2, len(vocabulary)))


@pytest.mark.parametrize("tokens", [CHINESE, DIGRAPHS, SPELT])
@pytest.mark.parametrize(
    ("name", "kind"), [("Wav2Vec2CTCTokenizer", "characters"), ("Wav2Vec2PhonemeCTCTokenizer", "phones")]
)
def test_the_tokenizer_tells_whether_tokens_are_joined(tmp_path, tokens, name, kind):
    import transformers

    recogniser(tmp_path, tokens, {"tokenizer_class": name})
    theirs_read = getattr(transformers, name)(str(tmp_path / "vocab.json"))
    rows = [row for row, token in enumerate(tokens) if token not in {"<pad>", "<unk>"}]
    assert letters_read(tmp_path) == (kind, " ".join(theirs_read.decode(rows).split()))


def test_a_tokenizer_may_be_named_in_the_configuration_or_nowhere(tmp_path):
    recogniser(tmp_path, CHINESE, {"unk_token": "<unk>"})
    assert letters_read(tmp_path)[0] == "phones"  # a guess
    edit(tmp_path / "config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer"})
    assert letters_read(tmp_path)[0] == "characters"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["[UNK]", {"__type": "AddedToken", "content": "[UNK]", "lstrip": False}])
def test_special_tokens_are_found_wherever_they_are_told(tmp_path, file, token):
    recogniser(tmp_path, ["<pad>", "A", "[UNK]", "/"], {"tokenizer_class": "Wav2Vec2CTCTokenizer"})
    said = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
    (tmp_path / file).write_text(json.dumps({**said, "unk_token": token, "word_delimiter_token": "/"}))
    assert read_model(tmp_path)[1].ctc.vocabulary == Vocabulary("characters", ("<blank>", "<unk>", "A", "|"))
    edit(tmp_path / file, {"unk_token": None})
    found = read_model(tmp_path)[1].ctc
    assert found.vocabulary.tokens == ("<blank>", "<unk>", "A", "[UNK]", "|")
    assert found.bias[1] < -1000
    edit(tmp_path / file, {"unk_token": {"content": 5}})
    with pytest.raises(ValueError, match=rf"{file}: unk_token = 5 is no str"):
        read_model(tmp_path)


def test_tokens_of_a_tokenizer_that_lowers_are_lowered(tmp_path):
    import transformers

    settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": True}
    recogniser(tmp_path, DIGRAPHS, settings)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), do_lower_case=True)
    assert letters_read(tmp_path) == ("characters", tokenizer.decode([2, 3, 4, 5])) == ("characters", "abch")
    (tmp_path / "vocab.json").write_text(
        json.dumps(dict(zip(["<pad>", "<unk>", "|", "A", "B", "b"], range(6), strict=True)))
    )
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: do_lower_case makes one token of 'B' and 'b'; set"):
        read_model(tmp_path)
    edit(tmp_path / "tokenizer_config.json", {"do_lower_case": False})
    assert letters_read(tmp_path) == ("characters", "ABb")


@pytest.mark.parametrize("kind", ["characters", "words", "phones"])
def test_what_tokens_are_comes_back(tmp_path, kind):
    import transformers

    _, model = ours(kind="wav2vec2")
    vocabulary = Vocabulary(kind, ("<blank>", "<unk>", "A", "|", "É"))
    head = CTCHead(vocabulary, torch.randn(5, 32), torch.randn(5))
    write(Model("wav2vec2", model.encoder, model.weights, ctc=head), tmp_path / "hf")
    assert read_model(tmp_path / "hf")[1].ctc.vocabulary == vocabulary
    _, said = transformers.AutoModelForCTC.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    edit(tmp_path / "hf" / "config.json", {"audiossl_tokens": ["words"]})
    with pytest.raises(
        ValueError, match=r"config\.json: audiossl_tokens = \['words'\]; known: characters, words, phones"
    ):
        read_model(tmp_path / "hf")


def test_a_recogniser_without_its_tokens_is_an_encoder(tmp_path):
    model = recogniser(tmp_path, SPELT)
    (tmp_path / "vocab.json").unlink()
    _, read = read_model(tmp_path)
    assert read.ctc is None
    assert "the output layer is left behind: no vocab.json beside the weights tells its tokens" in read.notes
    assert not any("heads" in note for note in read.notes)
    assert_same_layers(audiossl.load(tmp_path), layers_of_theirs(model.base_model, *alone()), *alone())


def test_rows_without_tokens_are_told(tmp_path):
    recogniser(tmp_path, SPELT)
    rows = {token: row for row, token in enumerate(SPELT) if token != "B"}
    (tmp_path / "vocab.json").write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match=r"vocab\.json: no token for row 1 of the output layer \(1 such rows of 6\); copy"
    ):
        read_model(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({**rows, "<row>": 1}))
    assert "<row>" in read_model(tmp_path)[1].ctc.vocabulary.tokens


@pytest.mark.parametrize("place", ["added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("count", "kept"), [(7, ("<s>", "</s>")), (5, ())])
def test_tokens_that_a_tokenizer_added_have_rows_only_where_the_layer_has_them(tmp_path, place, count, kept):
    theirs("wav2vec2", suffix="ForCTC", vocab_size=count, pad_token_id=4).save_pretrained(tmp_path)
    tokens = ["A", "|", "B", "[UNK]", "[PAD]"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    added = {"<s>": 5, "</s>": 6}
    told = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    if place == "added_tokens.json":
        (tmp_path / place).write_text(json.dumps(added))
    else:
        known = {4: "[PAD]"} | {row: token for token, row in added.items()}
        told["added_tokens_decoder"] = {str(row): {"content": token} for row, token in known.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    found = read_model(tmp_path)[1].ctc.vocabulary
    assert (found.tokens, found.kind) == (("<blank>", "<unk>", "A", "|", "B", *kept), "characters")


@pytest.mark.parametrize("junk", [*JUNK, {"5": "<s>"}, {"5": {"content": 1}}, {"x": {}}])
def test_added_tokens_of_any_content_are_one_line(tmp_path, junk):
    _, model = ours()
    write(
        Model("hubert", model.encoder, model.weights, ctc=CTCHead(VOCABULARY, torch.zeros(7, 32), torch.zeros(7))),
        tmp_path / "hf",
    )
    edit(tmp_path / "hf" / "tokenizer_config.json", {"added_tokens_decoder": junk})
    (tmp_path / "hf" / "added_tokens.json").write_text(json.dumps(junk))
    assert_read_or_refused(lambda: read_model(tmp_path / "hf"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu' has no counterpart here"),
        (
            {"adapter_attn_dim": 16},
            "adapter_attn_dim = 16: adapters of MMS are not imported; .*mms-1b, .*--adapter.name mms",
        ),
        ({"conv_stride": [5, 2, 2]}, "give a positive number of each for every convolution"),
        ({"conv_kernel": [10, 3, 3, 3, 3, 2, 3]}, "says convolutions of .* frames, its weights have"),
        ({"model_type": "whisper"}, "config.json has model_type 'whisper'; known: hubert, "),
        ({"model_type": "mert_model"}, "config.json has model_type 'mert_model'; known: hubert, "),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm = False has no counterpart here"),
        ({"num_attention_heads": 5}, "not a multiple of num_heads 5"),
    ],
)
def test_what_ours_cannot_compute_is_one_line(tmp_path, change, message):
    theirs("hubert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message) as error:
        read_model(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("place", ["preprocessor_config.json", "processor_config.json"])
def test_what_a_processor_says_of_waveforms_is_heeded(tmp_path, place, do_normalize):
    theirs("hubert").save_pretrained(tmp_path)
    told = {"do_normalize": do_normalize, "sampling_rate": 24000}
    content = told if place.startswith("pre") else {"feature_extractor": told, "processor_class": "Wav2Vec2Processor"}
    (tmp_path / place).write_text(json.dumps(content))
    _, read = read_model(tmp_path)
    assert (read.encoder["normalise_waveform"], read.encoder["sample_rate"]) == (do_normalize, 24000)
    assert read.notes == ()


def test_without_a_processor_the_guess_is_said_and_can_be_replaced(tmp_path):
    theirs("hubert").save_pretrained(tmp_path)
    (note,) = read_model(tmp_path)[1].notes
    assert "waveforms are not normalised" in note
    assert note.endswith("--encoder.normalise_waveform true")
    _, read = read_model(tmp_path, overrides={"normalise_waveform": True})
    assert (read.encoder["normalise_waveform"], read.notes) == (True, ())


@pytest.mark.parametrize("probability", [0.0, 0.05])
def test_models_without_a_mask_embedding_get_zeros(tmp_path, probability):
    from safetensors.torch import load_file, save_file

    model = theirs("wav2vec2", suffix="ForCTC", mask_time_prob=probability)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state.pop("wav2vec2.masked_spec_embed", None)
    save_file(state, tmp_path / WEIGHTS)
    (tmp_path / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate("_|ABCDE")}))
    edit(tmp_path / "config.json", {"pad_token_id": 0})
    _, read = read_model(tmp_path)
    assert any("no mask embedding" in note for note in read.notes)
    assert not read.weights["mask_emb"].any()
    assert_same_layers(audiossl.load(tmp_path), layers_of_theirs(model.base_model, *alone()), *alone())


def test_weights_in_several_pickles_are_read(tmp_path):
    model = theirs("hubert")
    model.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    state = old_weight_norm(model.state_dict())
    parts = {"part-1.bin": list(state)[:9], "part-2.bin": list(state)[9:]}
    for part, names in parts.items():
        torch.save({name: state[name] for name in names}, tmp_path / part)
    index = {name: part for part, names in parts.items() for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same_layers(audiossl.load(tmp_path), layers_of_theirs(model, *alone()), *alone())
    (tmp_path / "part-2.bin").unlink()
    with pytest.raises(ValueError, match=r"part-2\.bin: no such file; copy"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("encoder.layers.1.final_layer_norm.bias"),
            "missing transformer.layers.1.ffn_norm.bias",
        ),
        (lambda state: state.update(extra=torch.ones(1)), r"unexpected extra \(1 in all\)"),
        (lambda state: state.update(masked_spec_embed=torch.ones(3)), "of another shape mask_emb"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    from safetensors.torch import load_file, save_file

    theirs("hubert").save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    change(state)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path)


def test_kinds_that_cannot_hold_an_encoder_are_refused(tmp_path):
    _, model = ours("wavlm", kind="hubert")
    with pytest.raises(ValueError, match="transformers' Hubert cannot hold this encoder"):
        write(model, tmp_path / "hf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "preprocessor_config.json", "pytorch_model.bin"])
def test_damaged_files_are_one_line(tmp_path, name):
    from safetensors.torch import load_file

    _, model = ours()
    write(model, tmp_path / "hf")
    if name.endswith(".bin"):
        torch.save(load_file(tmp_path / "hf" / WEIGHTS), tmp_path / "hf" / name)
        (tmp_path / "hf" / WEIGHTS).unlink()
    path = tmp_path / "hf" / name
    refused = [assert_read_or_refused(lambda: read_model(tmp_path / "hf"), tmp_path) for _ in damaged(path)]
    assert all(refused[:4])


def edit(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change if isinstance(change, list) else {**content, **change}))


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_configurations_of_any_content_are_one_line(tmp_path, kind):
    _, model = ours("wavlm" if kind == "wavlm" else "wav2vec2", kind=kind)
    write(model, tmp_path / "hf")
    for name in ("config.json", "preprocessor_config.json"):
        path = tmp_path / "hf" / name
        whole = path.read_text()
        for key in json.loads(whole):
            for value in JUNK:
                edit(path, {key: value})
                assert_read_or_refused(lambda: read_model(tmp_path / "hf"), tmp_path)
        path.write_text(whole)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", [1], r"config\.json: not a JSON object; copy it again"),
        ("preprocessor_config.json", [], r"preprocessor_config\.json: not a JSON object"),
        ("config.json", {"model_type": ["hubert"]}, "is in none of the formats"),
        ("config.json", {"conv_stride": 5}, "conv_strides: 5 is not a list"),
        ("config.json", {"num_attention_heads": 0}, "num_heads: 0 is too small; give at least 1"),
        ("config.json", {"layerdrop": "0.1"}, "layerdrop = '0.1' is no float"),
        ("preprocessor_config.json", {"do_normalize": "no"}, "do_normalize = 'no' is no bool"),
    ],
)
def test_configurations_of_the_wrong_types_are_one_line(tmp_path, name, change, message):
    _, model = ours()
    write(model, tmp_path / "hf")
    edit(tmp_path / "hf" / name, change)
    with pytest.raises(ValueError, match=message) as error:
        read_model(tmp_path / "hf")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_in_no_or_half_a_file_are_one_line(tmp_path):
    _, model = ours()
    write(model, tmp_path / "hf")
    (tmp_path / "hf" / WEIGHTS).unlink()
    torch.save([torch.ones(1)], tmp_path / "hf" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: holds no tensors by name"):
        read_model(tmp_path / "hf")
    (tmp_path / "hf" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"part-1\.safetensors: no such file"):
        read_model(tmp_path / "hf")


def test_junk_that_is_called_safetensors_is_one_line(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"junk" * 9, b"\xff" * 50, (2).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        assert assert_read_or_refused(lambda: read_model(path), path)
