"""fairseq's files of other shapes than the usual: frames at 25 Hz, DinoSR's heads, and configurations that do not tell how an encoder was built."""

from __future__ import annotations

import pytest
import torch
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
