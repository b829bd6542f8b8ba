"""The graph computes what the encoder does, for other sizes than it was traced with. Run by `make test-interop`; skipped without the extra `onnx`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interop_models import KERNELS_25HZ, STRIDES_25HZ, alone, ours, waveforms

from audiossl.interop.formats import get


def test_without_the_extra_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'audiossl\[onnx\]'"):
        get("onnx").write(ours()[1], tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


HOP_640 = {"conv_kernels": KERNELS_25HZ, "conv_strides": STRIDES_25HZ}
LARGE = {"large": True, "normalise_waveform": True}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"), [("wav2vec2", {}), ("wav2vec2", LARGE), ("wavlm", {}), ("mhubert", {}), ("mhubert", HOP_640)]
)
def test_the_graph_computes_what_the_encoder_does(tmp_path, name, options):
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    pytest.importorskip("onnxscript", exc_type=ImportError)
    encoder, model = ours(name, **options)
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
