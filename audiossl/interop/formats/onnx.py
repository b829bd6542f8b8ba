"""ONNX: an encoder for inference, with batch and length left open. Written only; it needs the extra `onnx`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from audiossl.data.frame_grid import FrameGrid
from audiossl.interop.encoder import build_encoder
from audiossl.interop.model import written_whole
from audiossl.nn.attention import FrameLayout
from audiossl.nn.masking import valid_frames
from audiossl.nn.positional import ConvPositions

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.model import Model
    from audiossl.nn.ssl_encoder import SSLEncoder


class Inference(nn.Module):
    """An encoder whose path never depends on the lengths, so that one graph serves all of them."""

    def __init__(self, encoder: SSLEncoder) -> None:
        super().__init__()
        self.encoder = encoder.eval()

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample); lengths: (batch,) int64. Returns (layer, batch, frame, dim) and (batch,) frames."""
        local = self.encoder.local_features(waveform, lengths)
        transformer = self.encoder.transformer
        valid = valid_frames(local.lengths, local.z.shape[1])
        x = self.encoder.projection(local.z).masked_fill(~valid.unsqueeze(-1), 0.0)
        positions: nn.Module = transformer.positions
        x = x + (positions(x) if isinstance(positions, ConvPositions) else positions(x, valid))
        x = x if transformer.pre_norm else transformer.norm(x)
        layout = FrameLayout(x.shape[0], x.shape[1], key_mask=valid[:, None, None])
        layers = [x]
        for layer in transformer.layers:
            layers.append(layer(layers[-1], layout))
        if transformer.pre_norm:
            layers[-1] = transformer.norm(layers[-1])
        return torch.stack(layers), local.lengths


def write(model: Model, out: Path) -> list[str]:
    """Write a graph: `waveform` (batch, sample) and `lengths` (batch,) to `layers` (layer, batch, frame, dim) and `frames` (batch,)."""
    try:
        import onnx  # noqa: F401 - the exporter needs it and says so less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--to onnx: {error.name} is not installed; pip install 'audiossl[onnx]'") from error
    encoder = build_encoder(model.encoder)
    encoder.load_state_dict(model.weights)
    shortest = FrameGrid.of(encoder).first
    batch, samples = torch.export.Dim("batch", min=1), torch.export.Dim("sample", min=shortest)
    example = (torch.randn(2, 16000), torch.tensor([16000, 12000]))
    with written_whole(out) as partial, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Inference(encoder),
            example,
            dynamo=True,
            verbose=False,
            input_names=["waveform", "lengths"],
            output_names=["layers", "frames"],
            dynamic_shapes={"waveform": {0: batch, 1: samples}, "lengths": {0: batch}},
        )
        assert program is not None
        program.save(str(partial), include_initializers=True)
    return ["the output layer is left behind: the graph ends with the encoder"] if model.ctc else []
