"""ONNX: an encoder for inference, with batch and length left open. Written only; it needs the extra `onnx`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from audiossl.data.frame_grid import FrameGrid
from audiossl.interop.encoder import build_encoder
from audiossl.interop.model import written_whole
from audiossl.nn.attention import FrameLayout
from audiossl.nn.masking import valid_frames
from audiossl.nn.positional import ConvPositions
from audiossl.nn.ssl_encoder import SSLEncoder

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.model import Model


OUTPUT_LAYER = "the output layer is left behind: the graph ends with the encoder"


class Inference(nn.Module):
    """An encoder whose path never depends on the lengths, so that one graph serves all of them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.eval()

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample); lengths: (batch,) int64. Returns (layer, batch, frame, dim) and (batch,) frames."""
        if not isinstance(self.encoder, SSLEncoder):
            output = self.encoder(waveform, lengths)
            return torch.stack(output.layers), output.lengths
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
    example = (torch.randn(2, 16000), torch.tensor([16000, 12000]))
    module = Inference(encoder)
    with written_whole(out) as partial, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        module(
            *example
        )  # tables that are made on first use, such as mel filters, would be made of nothing while it is traced
        program = _traced(module, example, FrameGrid.of(encoder).first, model.encoder["name"])
        program.save(str(partial), include_initializers=True)
    return [OUTPUT_LAYER] if model.ctc else list(model.notes)


def _traced(module: Inference, example: tuple[Tensor, Tensor], shortest: int, name: str) -> Any:
    """Return the exporter's program; ValueError where the encoder cannot be traced, or only for batches and lengths like the example's.

    shortest: fewest samples that it is ever given. name: of the encoder, for people.
    """
    batch, samples = torch.export.Dim("batch", min=1), torch.export.Dim("sample", min=shortest)
    fault = (
        f"--to onnx: an encoder {name} of these options cannot be traced for any batch and length; --debug shows where"
    )
    try:
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            input_names=["waveform", "lengths"],
            output_names=["layers", "frames"],
            dynamic_shapes={"waveform": {0: batch, 1: samples}, "lengths": {0: batch}},
        )
    except Exception as error:  # the exporter's own, or those of any step of the encoder
        raise ValueError(fault) from error
    assert program is not None
    if any(isinstance(size, int) for size in program.model.graph.inputs[0].shape or ()):
        raise ValueError(fault)
    return program
