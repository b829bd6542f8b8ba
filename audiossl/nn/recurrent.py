"""Recurrent layers over padded batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

if TYPE_CHECKING:
    from torch import Tensor

_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class BLSTM(nn.Module):
    """Layers of bidirectional LSTM (Hochreiter and Schmidhuber, 1997; Graves and Schmidhuber, 2005), with dropout behind each.

    The backward direction begins at the last valid frame, so that padding has no influence.
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        between = dropout if num_layers > 1 else 0.0  # torch warns of dropout between layers where there is one
        self.layers = nn.LSTM(input_dim, hidden_dim, num_layers, batch_first=True, bidirectional=True, dropout=between)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, frame, 2 hidden_dim), 0 in the padding.

        frames: (batch, frame, input_dim). lengths: (batch,) valid frames, at least 1.
        """
        hidden: Tensor = self.dropout((_packed if frames.is_cuda else _turned)(self.layers, frames, lengths))
        return hidden


def _packed(layers: nn.LSTM, frames: Tensor, lengths: Tensor) -> Tensor:
    """Leave the padding to cuDNN."""
    packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layers(packed)[0], batch_first=True, total_length=frames.shape[1])[0]


def _turned(layers: nn.LSTM, frames: Tensor, lengths: Tensor) -> Tensor:
    """Turn the valid frames round for the backward direction.

    On processors the gradient of a packed batch is slow: for each frame torch fills one as large as the batch.
    """
    places = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
    valid = places < lengths[:, None]
    turned = torch.where(valid, lengths[:, None] - 1 - places, places)
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    hidden = frames
    for layer in range(layers.num_layers):
        if layer:
            hidden = F.dropout(hidden, layers.dropout, layers.training)
        forward = _one_way(layers, f"l{layer}", hidden)
        backward = _one_way(layers, f"l{layer}_reverse", hidden[rows, turned])
        hidden = torch.cat([forward, backward[rows, turned]], dim=-1)
    return hidden.where(valid[..., None], 0.0)


def _one_way(layers: nn.LSTM, name: str, frames: Tensor) -> Tensor:
    state = frames.new_zeros(1, len(frames), layers.hidden_size)
    parameters = [getattr(layers, f"{kind}_{name}") for kind in _PARAMETERS]
    hidden: Tensor = torch.lstm(frames, (state, state), parameters, True, 1, 0.0, layers.training, False, True)[0]
    return hidden
