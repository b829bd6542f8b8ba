"""fairseq's files of other shapes than the usual: frames at 25 Hz, DinoSR's heads, and configurations that do not tell how an encoder was built."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fairseq_files import CONFIG, CONV, as_fairseq
from interop_models import KERNELS_25HZ, STRIDES_25HZ, alone, assert_same_layers, layers_of_theirs, ours, theirs

import audiossl
from audiossl import registry
from audiossl.interop.encoder import build_encoder
from audiossl.interop.experiments import copy_heads, open_experiment, write_experiment
from audiossl.interop.formats import get, read_model


def test_frames_of_25_hz(tmp_path):
    model = theirs("hubert", conv_dim=(16,) * 8, conv_kernel=KERNELS_25HZ, conv_stride=STRIDES_25HZ)
    config = {**CONFIG, "_name": "hubert", "conv_feature_layers": CONV.replace("* 2", "* 3")}
    torch.save({"cfg": {"model": config, "task": {}}, "model": as_fairseq(model, "hubert")}, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    encoder = audiossl.load(tmp_path / "x.pt")
    assert_same_layers(encoder, layers_of_theirs(model, *alone()), *alone())
    for name in ("fairseq", "torchaudio"):
        get(name).write(read, tmp_path / name)
        _, again = read_model(tmp_path / name)
        assert (again.encoder["conv_kernels"], again.encoder["conv_strides"]) == ([*KERNELS_25HZ], [*STRIDES_25HZ])
    (tmp_path / "torchaudio.json").unlink()
    with pytest.raises(ValueError, match=r"whose strides it does not tell; add --encoder\.conv_strides"):
        read_model(tmp_path / "torchaudio", overrides={"num_heads": 4})
    told = {"num_heads": 4, "conv_strides": STRIDES_25HZ}
    assert read_model(tmp_path / "torchaudio", overrides=told)[1].encoder["conv_strides"] == [*STRIDES_25HZ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 24000}, "encoder.sample_rate is 24000, and s3prl gives its upstreams 16000 Hz"),
        ({"conv_kernels": KERNELS_25HZ, "conv_strides": STRIDES_25HZ}, "640 samples apart, and s3prl counts on 320"),
    ],
)
def test_what_s3prl_would_hear_otherwise_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        get("s3prl").write(ours(**options)[1], tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def dinosr_content():
    """A file as DinoSR's authors publish them, with its teacher and codebooks."""
    generator = torch.Generator().manual_seed(4)
    state = as_fairseq(theirs("data2vec-audio"), "data2vec-audio")
    for i in range(2):
        state[f"heads.{i}.weight"] = torch.randn(5, 32, generator=generator)
        state[f"heads.{i}.bias"] = torch.randn(5, generator=generator)
        state[f"_codebook{i}"] = torch.randn(5, 32, generator=generator)
        state[f"_codebook_cnts{i}"] = torch.rand(5, generator=generator) + 1
    state["_ema"] = {"layers.0.fc1.bias": torch.ones(64)}
    state |= {f"_pre_encoder_{part}": {"weight": torch.ones(3)} for part in ("cnn", "ln", "proj")}
    config = {**CONFIG, "_name": "dinosr", "extractor_mode": "layer_norm", "average_top_k_layers": 2}
    return {"args": None, "cfg": {"model": config, "task": {"normalize": True}}, "model": state}


def test_dinosr_keeps_its_heads_and_codebooks(tmp_path):
    content = dinosr_content()
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.kind, read.notes) == ("data2vec-audio", ())
    assert read.objective == {"name": "dinosr", "top_layers": 2, "num_codes": 5}
    expected = layers_of_theirs(theirs("data2vec-audio"), *alone(), normalise=True)
    assert_same_layers(audiossl.load(tmp_path / "x.pt"), expected, *alone())
    write_experiment(read, tmp_path / "exp", source="x.pt", file_format="fairseq")
    cls = registry.get("objectives", "dinosr")
    module = cls(build_encoder(read.encoder), cls.Config(top_layers=2, num_codes=5))
    (said,) = copy_heads(str(tmp_path / "exp"), module)
    assert "6 tensors of its dinosr heads are used too" in said
    frames, state = torch.randn(3, 32), content["model"]
    for i in range(2):
        codes = state[f"_codebook{i}"] / state[f"_codebook_cnts{i}"].unsqueeze(1)
        torch.testing.assert_close(module.codebooks.codes()[i], codes)
        expected = torch.nn.functional.linear(frames, state[f"heads.{i}.weight"], state[f"heads.{i}.bias"])
        torch.testing.assert_close(module.heads[i](frames), expected)
    (note,) = get("transformers").write(open_experiment(tmp_path / "exp"), tmp_path / "hf")
    assert "6 tensors of the dinosr heads are left behind" in note


@pytest.mark.parametrize(
    ("name", "value"), [("_codebook1", torch.ones(5, 31)), ("heads.0.bias", None), ("_codebook_cnts0", torch.ones(4))]
)
def test_dinosr_without_whole_heads_is_an_encoder(tmp_path, name, value):
    content = dinosr_content()
    content["model"] = {n: v for n, v in {**content["model"], name: value}.items() if v is not None}
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.heads, read.objective) == ({}, {})
    assert "tensors of heads are left behind, such as" in read.notes[0]


@pytest.mark.parametrize("recogniser", [True, False])
def test_how_an_encoder_was_built_is_told_or_asked_for(tmp_path, recogniser):
    state = as_fairseq(theirs("wav2vec2", large=True), "wav2vec2", large=True)
    if recogniser:
        state = {f"w2v_encoder.w2v_model.{name}": value for name, value in state.items()}
    torch.save({"cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": None}}, "model": state}, tmp_path / "x.pt")
    asked = r"add --encoder\.num_heads N --encoder\.pre_norm true \(or false\)$"
    with pytest.raises(ValueError, match=asked):
        read_model(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"add --encoder\.pre_norm true"):
        read_model(tmp_path / "x.pt", overrides={"num_heads": 4})
    _, read = read_model(tmp_path / "x.pt", overrides={"num_heads": 4, "pre_norm": True})
    assert (read.encoder["num_heads"], read.encoder["pre_norm"]) == (4, True)


def test_an_option_that_a_file_leaves_out_is_fairseqs_default(tmp_path):
    state = as_fairseq(theirs("wav2vec2", large=False), "wav2vec2", large=False)
    model = {"_name": "wav2vec2", "encoder_attention_heads": 4}
    torch.save({"cfg": {"model": model}, "model": state}, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.encoder["num_heads"], read.encoder["pre_norm"]) == (4, False)


HEADS = 3
AUDIO = "modality_encoders.AUDIO."


def data2vec2_content(*, prenet=1, heads=HEADS):
    """A file of data2vec 2.0 for audio, with its decoder: one block in the context encoder, two behind it."""
    generator = torch.Generator().manual_seed(6)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    state = {}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        state[f"{AUDIO}local_encoder.conv_layers.{i}.0.weight"] = normal(16, 16 if i else 1, kernel)
        state |= {f"{AUDIO}local_encoder.conv_layers.{i}.2.1.{kind}": normal(16) for kind in ("weight", "bias")}
    for i in range(5):
        state[f"{AUDIO}relative_positional_encoder.{i + 1}.0.weight"] = normal(24, 6, 3)
        state[f"{AUDIO}relative_positional_encoder.{i + 1}.0.bias"] = normal(24)
    linear = {"attn.qkv": (72, 24), "attn.proj": (24, 24), "mlp.fc1": (48, 24), "mlp.fc2": (24, 48)}
    for block in [*(f"{AUDIO}context_encoder.blocks.{i}." for i in range(prenet)), "blocks.0.", "blocks.1."]:
        state |= {f"{block}{part}.weight": normal(*shape) for part, shape in linear.items()}
        state |= {f"{block}{part}.bias": normal(shape[0]) for part, shape in linear.items()}
        state |= {f"{block}{part}.{kind}": 1 + normal(24) for part in ("norm1", "norm2") for kind in ("weight", "bias")}
    for name, shape in {
        "project_features.1": (16,),
        "project_features.2": (24, 16),
        "context_encoder.norm": (24,),
    }.items():
        state |= {f"{AUDIO}{name}.weight": normal(*shape), f"{AUDIO}{name}.bias": normal(shape[0])}
    state[f"{AUDIO}alibi_scale"] = torch.linspace(2.0, -0.5, heads).view(1, 1, heads, 1, 1)
    state[f"{AUDIO}decoder.proj.weight"] = normal(24, 8)
    audio = {"feature_encoder_spec": CONV, "prenet_depth": prenet, "use_alibi_encoder": True, "local_grad_mult": 1.0}
    model = {
        "_name": "data2vec_multi",
        "num_heads": HEADS,
        "norm_eps": 1e-5,
        "layer_norm_first": False,
        "modalities": {"audio": audio},
    }
    task = {"_name": "audio_pretraining", "normalize": True}
    return {
        "args": None,
        "cfg": {"model": model, "task": task},
        "model": {**state, "_ema": {"blocks.0.norm1.bias": torch.ones(24)}},
    }


def data2vec2_layers(state, waveform, prenet):
    """Every layer for one utterance, by the published equations: (1, frame, 24) each."""

    def at(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    x = F.layer_norm(waveform, waveform.shape[1:]).unsqueeze(1)
    for i, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        name = f"{AUDIO}local_encoder.conv_layers.{i}"
        x = F.conv1d(x, state[f"{name}.0.weight"], stride=stride).transpose(1, 2)
        x = F.gelu(F.layer_norm(x, (16,), *at(f"{name}.2.1"))).transpose(1, 2)
    x = F.linear(
        F.layer_norm(x.transpose(1, 2), (16,), *at(f"{AUDIO}project_features.1")), *at(f"{AUDIO}project_features.2")
    )
    y = x
    for i in range(1, 6):
        weight, bias = at(f"{AUDIO}relative_positional_encoder.{i}.0")
        y = F.conv1d(y.transpose(1, 2), weight, bias, padding=1, groups=4).transpose(1, 2)
        y = F.gelu(F.layer_norm(y, (24,)))
    layers = [F.layer_norm(x + y, (24,), *at(f"{AUDIO}context_encoder.norm"))]
    frame = torch.arange(x.shape[1])
    slopes = torch.tensor([2**-4, 2**-8, 2**-2])  # two heads' series, and the first of four heads'
    scale = state[f"{AUDIO}alibi_scale"].flatten().clamp(min=0)
    bias = -(slopes * scale)[:, None, None] * (frame[:, None] - frame[None]).abs()
    for block in [*(f"{AUDIO}context_encoder.blocks.{i}." for i in range(prenet)), "blocks.0.", "blocks.1."]:
        x = layers[-1]
        query, key, value = (
            part.view(-1, HEADS, 8).transpose(0, 1) for part in F.linear(x[0], *at(f"{block}attn.qkv")).chunk(3, dim=-1)
        )
        heard = (query @ key.transpose(1, 2) / 8**0.5 + bias).softmax(-1) @ value
        x = x + F.linear(heard.transpose(0, 1).flatten(1), *at(f"{block}attn.proj"))
        x = F.layer_norm(x, (24,), *at(f"{block}norm1"))
        given = F.linear(F.gelu(F.linear(x, *at(f"{block}mlp.fc1"))), *at(f"{block}mlp.fc2"))
        layers.append(F.layer_norm(x + given, (24,), *at(f"{block}norm2")))
    return layers


@pytest.mark.parametrize("recogniser", [True, False])
@pytest.mark.parametrize(("prenet", "heads"), [(0, HEADS), (1, HEADS), (2, 1)])
def test_data2vec2_computes_the_published_equations(tmp_path, prenet, heads, recogniser):
    content = data2vec2_content(prenet=prenet, heads=heads)
    expected = data2vec2_layers(content["model"], alone()[0], prenet)
    if recogniser:
        state = {f"w2v_encoder.w2v_model.{name}": value for name, value in content["model"].items() if name != "_ema"}
        outer = {"_name": "wav2vec_ctc", "w2v_args": content["cfg"], "normalize": "${task.normalize}"}
        content = {"cfg": {"model": outer, "task": {"normalize": True}}, "model": state}
    torch.save(content, tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt")
    assert (read.kind, read.encoder["num_layers"], read.encoder["alibi"]) == ("data2vec-audio", 2 + prenet, True)
    assert any("1 tensors of its decoder are left behind" in note for note in read.notes)
    assert_same_layers(audiossl.load(tmp_path / "x.pt"), expected, *alone())
    write_experiment(read, tmp_path / "exp", source="x.pt", file_format="fairseq")
    assert_same_layers(audiossl.load(tmp_path / "exp"), expected, *alone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first = True has no counterpart"),
        ({"norm_eps": 1e-6}, "norm_eps = 1e-06 has no counterpart"),
        ({"alibi_scale": torch.ones(3, 1, 1, 1, 1)}, r"alibi_scale has the shape \[3, 1, 1, 1, 1\]"),
        ({"extra_tokens": torch.ones(1, 1, 24)}, r"unexpected extra_tokens \(1 in all\)"),
        ({"modalities": {"audio": {"feature_encoder_spec": "x"}}}, "feature_encoder_spec 'x' is not a list"),
    ],
)
def test_data2vec2_of_other_options_is_one_line(tmp_path, change, message):
    content = data2vec2_content()
    tensors = {f"{AUDIO}{name}": value for name, value in change.items() if isinstance(value, torch.Tensor)}
    content["model"] |= tensors
    content["cfg"]["model"] |= {name: value for name, value in change.items() if not isinstance(value, torch.Tensor)}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message) as error:
        read_model(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_a_distilled_model_of_s3prl_is_sent_to_its_upstream(tmp_path):
    path = tmp_path / "distilled.ckpt"
    torch.save({"Distiller": {"x": torch.ones(1)}, "Config": {"distiller": {"n_tasks": 3}}, "Step": 1}, path)
    with pytest.raises(ValueError, match=f"is a model that s3prl distilled.*give s3prl:distiller_local:{path}$"):
        read_model(path)
