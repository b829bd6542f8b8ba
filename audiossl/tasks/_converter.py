"""From frames of an encoder to a log-mel spectrum, each frame of which is heard when the next one is made."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames
from audiossl.nn.recurrent import BLSTM

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONV_DIM, _CONV_KERNEL, _CONV_LAYERS, _CONV_DROPOUT = 512, 5, 3, 0.5


class Converter(nn.Module):
    """Frames, resampled to those of the spectrum, an encoder, a prenet on the last frame made, and LSTM cells that hand on what a linear layer and tanh made of their state.

    S3PRL-VC's `taco2_ar` and `simple_ar` (Huang et al., 2022; Liu et al., 2020). Spectra are normalised by the mean and deviation of the training data. Differs from the
    published code: batch norms and convolutions leave padding out.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        input_dim: int,
        bins: int,
        *,
        ratio: float,
        encoder: Literal["tacotron2", "linear"],
        hidden_dim: int,
        prenet_dims: Sequence[int],
        prenet_dropout: float,
        cells: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.ratio, self.bins, self.prenet_dropout = ratio, bins, prenet_dropout
        self.encoder: nn.Module = (
            TacotronEncoder(input_dim, hidden_dim) if encoder == "tacotron2" else LinearEncoder(input_dim, hidden_dim)
        )
        sizes = [bins, *prenet_dims]
        self.prenet = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        inputs = [hidden_dim + sizes[-1], *[hidden_dim] * (cells - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(size, hidden_dim) for size in inputs)
        self.projections = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in inputs)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_dim, bins)
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("deviation", torch.ones(bins))

    def normalised(self, mel: Tensor) -> Tensor:
        """Spectrum of mean 0 and deviation 1 in the training data."""
        return (mel - self.mean) / self.deviation

    def forward(self, features: Tensor, lengths: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return spectra (batch, frame, bin) and their lengths.

        features: (batch, frame, input_dim), of which `lengths` (batch,) are valid. target: (batch, frame, bin), the true spectrum, heard instead of what
        was made; frames that it lacks are silent.
        """
        frames = (lengths * self.ratio).long()
        place = torch.arange(int(frames.max()), device=features.device)
        source = (place / self.ratio).long().clamp(max=features.shape[1] - 1)
        states = self.encoder(features[:, source], frames)
        heard = None
        if target is not None:
            before = F.pad(self.normalised(target), (0, 0, 1, 0))[:, : len(place)]
            before = F.pad(before, (0, 0, 0, len(place) - before.shape[1]))
            heard = self._prenet(before, None)
        return self._decode(states, heard), frames

    def _decode(self, states: Tensor, heard: Tensor | None) -> Tensor:
        """(batch, frame, bin). states: (batch, frame, hidden). heard: what the prenet gives of the true frames before each."""
        batch, count, width = states.shape
        hidden = [states.new_zeros(batch, width) for _ in self.cells]
        memory = [states.new_zeros(batch, width) for _ in self.cells]
        last, made = states.new_zeros(batch, self.bins), []
        kept = self._kept(count, states) if heard is None else None
        for frame in range(count):
            now = self._prenet(last, [one[frame] for one in kept or []]) if heard is None else heard[:, frame]
            x = torch.cat([states[:, frame], now], dim=1)
            for k, (cell, projection) in enumerate(zip(self.cells, self.projections, strict=True)):
                state, memory[k] = cell(x, (hidden[k], memory[k]))
                x = hidden[k] = projection(self.dropout(state)).tanh()
            made.append(self.output(x))
            last = self.normalised(made[-1])
        return torch.stack(made, dim=1)

    def _prenet(self, x: Tensor, kept: Sequence[Tensor] | None) -> Tensor:
        """Dropout is always on (Shen et al., 2018, section 2.2): drawn, or by the units that are `kept`, scaled."""
        for k, layer in enumerate(self.prenet):
            x = layer(x).relu()
            x = F.dropout(x, self.prenet_dropout) if kept is None else x * kept[k]
        if not self.prenet:
            x = F.dropout(x, self.prenet_dropout) if kept is None else x * kept[0]
        return x

    def _kept(self, count: int, like: Tensor) -> list[Tensor]:
        """Units that are kept in reading out, (frame, unit) for each layer: the same for all utterances, and each time, so that a score can be repeated."""
        widths = [int(layer.out_features) for layer in self.prenet if isinstance(layer, nn.Linear)] or [self.bins]
        kept = []
        for seed, width in enumerate(widths):
            draws = torch.rand(count, width, generator=torch.Generator().manual_seed(seed))
            kept.append(((draws >= self.prenet_dropout) / (1.0 - self.prenet_dropout)).to(like))
        return kept


class TacotronEncoder(nn.Module):
    """Linear layer, three convolutions with batch norm, ReLU and dropout, and a layer of BLSTM (Shen et al., 2018, section 2.2)."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_dim, _CONV_DIM)
        self.convs = nn.ModuleList(
            nn.Conv1d(_CONV_DIM, _CONV_DIM, _CONV_KERNEL, padding=_CONV_KERNEL // 2, bias=False)
            for _ in range(_CONV_LAYERS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(_CONV_DIM) for _ in range(_CONV_LAYERS))
        self.dropout = nn.Dropout(_CONV_DROPOUT)
        self.blstm = BLSTM(_CONV_DIM, hidden_dim // 2, 1)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            nn.init.xavier_uniform_(conv.weight, nn.init.calculate_gain("relu"))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, frame, hidden_dim). x: (batch, frame, input_dim)."""
        valid = valid_frames(lengths, x.shape[1])
        x = self.input(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            seen = conv(x.masked_fill(~valid.unsqueeze(2), 0.0).transpose(1, 2)).transpose(1, 2)
            x = torch.zeros_like(seen)
            x[valid] = self.dropout(norm(seen[valid]).relu())
        found: Tensor = self.blstm(x, lengths)
        return found


class LinearEncoder(nn.Module):
    """Linear layer and ReLU."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_dim, hidden_dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002 - for encoders that look at more than one frame
        """Return (batch, frame, hidden_dim). x: (batch, frame, input_dim)."""
        found: Tensor = self.input(x).relu()
        return found
