"""From a sequence to one vector: of the frames of a spoken word, or of its phones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from audiossl.nn.recurrent import BLSTM

if TYPE_CHECKING:
    from torch import Tensor


class SequenceEmbedder(nn.Module):
    """Bidirectional LSTM, its last states of both directions, and a linear layer to unit vectors: the order of frames or phones tells words apart."""

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int, dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.recurrent = BLSTM(input_dim, hidden_dim, num_layers, dropout=dropout)
        self.output = nn.Linear(2 * hidden_dim, dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, dim). x: (batch, step, input_dim); lengths: (batch,) valid steps, at least 1."""
        hidden = self.recurrent(x, lengths)  # (batch, step, 2 hidden)
        half = hidden.shape[2] // 2
        last = (lengths.to(hidden.device) - 1).view(-1, 1, 1).expand(-1, 1, half)
        states = torch.cat([hidden[:, :, :half].gather(1, last).squeeze(1), hidden[:, 0, half:]], dim=1)
        return F.normalize(self.output(states), dim=1)


class SymbolEmbedder(nn.Module):
    """The same on symbols: phones or letters. num_symbols: numbers from 0."""

    def __init__(self, num_symbols: int, symbol_dim: int, hidden_dim: int, num_layers: int, dim: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(num_symbols, symbol_dim)
        self.sequence = SequenceEmbedder(symbol_dim, hidden_dim, num_layers, dim)

    def forward(self, symbols: Tensor, lengths: Tensor) -> Tensor:
        """Return (word, dim). symbols: (word, step) numbers; lengths: (word,)."""
        vectors: Tensor = self.sequence(self.symbols(symbols), lengths)
        return vectors
