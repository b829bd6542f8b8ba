"""The graph computes what the encoder does, for other sizes than it was traced with. Run by `make test-interop`; skipped without the extra `onnx`."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from interop_models import KERNELS_25HZ, STRIDES_25HZ, alone, ours, shaken, waveforms

from audiossl import registry
from audiossl.config import to_table
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.formats import get
from audiossl.interop.model import Model
from audiossl.nn.conv_encoder import ConvEncoder


def test_without_the_extra_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'audiossl\[onnx\]'"):
        get("onnx").write(ours()[1], tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fixed", [True, False])
def test_what_cannot_be_traced_is_one_line(tmp_path, monkeypatch, fixed):
    program = SimpleNamespace(
        model=SimpleNamespace(graph=SimpleNamespace(inputs=[SimpleNamespace(shape=[2, "sample"])]))
    )

    def export(*_, **__):
        if fixed:
            return program  # for batches of two only
        raise RuntimeError("data-dependent\nguard")

    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ValueError, match="--to onnx: an encoder wav2vec2 of these options cannot be traced") as error:
        get("onnx").write(ours()[1], tmp_path / "x.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def built(name, **options):
    """Build any tiny encoder; see `ours`."""
    cls = registry.get("encoders", name)
    if issubclass(cls, Wav2Vec2 | ConvEncoder):
        return ours(name, **options)
    config = replace(cls.Config.tiny(), **options)
    torch.manual_seed(0)
    encoder = shaken(cls(config))
    return encoder, Model(name, {"name": name, **to_table(config)}, dict(encoder.state_dict()))


HOP_640 = {"conv_kernels": KERNELS_25HZ, "conv_strides": STRIDES_25HZ}
LARGE = {"large": True, "normalise_waveform": True}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wav2vec2", {}),
        ("wav2vec2", LARGE),
        ("wav2vec2", {"alibi": True, "position_kernel": 5, "position_depth": 3, "conv_norm": "layer"}),
        ("wavlm", {}),
        ("mhubert", {}),
        ("mhubert", HOP_640),
        ("fbank", {}),
        ("fbank", {"inputs": "mfcc", "strides": (2, 2)}),
        ("conformer", {}),
        ("conformer", {"frontend": "conv", "conv_norm": "batch"}),
        ("vq_wav2vec", {}),
        ("vq_wav2vec", {"quantiser": "kmeans"}),
    ],
)
def test_the_graph_computes_what_the_encoder_does(tmp_path, name, options):
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    pytest.importorskip("onnxscript", exc_type=ImportError)
    encoder, model = built(name, **options)
    get("onnx").write(model, tmp_path / "x.onnx")
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    for waveform, lengths in (alone(), alone(1), waveforms()):
        layers, frames = session.run(None, {"waveform": waveform.numpy(), "lengths": lengths.numpy()})
        with torch.no_grad():
            output = encoder(waveform, lengths)
        assert frames.tolist() == output.lengths.tolist()
        for row, count in enumerate(frames):
            expected = np.stack([layer[row, :count].numpy() for layer in output.layers])
            np.testing.assert_allclose(layers[:, row, :count], expected, atol=1e-4, rtol=1e-4)
