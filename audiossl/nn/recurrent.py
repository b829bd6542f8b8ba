"""Recurrent layers over padded batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

if TYPE_CHECKING:
    from torch import Tensor


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
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=frames.shape[1])
        hidden: Tensor = self.dropout(output)
        return hidden
