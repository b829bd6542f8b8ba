"""Embedders of sequences: against torch's cells step by step, whatever the padding."""

from __future__ import annotations

import torch
from torch import nn

from audiossl.nn.word_embedder import SequenceEmbedder, SymbolEmbedder


def test_last_states_of_both_directions():
    torch.manual_seed(0)
    model = SequenceEmbedder(3, 4, 1, 5)
    lstm = model.recurrent.layers
    cells = []
    for suffix in ("", "_reverse"):
        cell = nn.LSTMCell(3, 4)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data = getattr(lstm, f"{name}_l0{suffix}").data
        cells.append(cell)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 1, 4])
    found = model(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        states = []
        for cell, order in zip(cells, (range(length), reversed(range(length))), strict=True):
            state = None
            for step in order:
                state = cell(x[row : row + 1, step], state)
            states.append(state[0])
        wanted = model.output(torch.cat(states, dim=1))
        torch.testing.assert_close(found[row : row + 1], wanted / wanted.norm(), atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing_and_order_does():
    torch.manual_seed(0)
    model = SymbolEmbedder(5, 3, 4, 2, 6)
    symbols, lengths = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 0]]), torch.tensor([3, 3, 2])
    found = model(symbols, lengths)
    torch.testing.assert_close(found[2:], model(torch.tensor([[1, 2]]), torch.tensor([2])))
    torch.testing.assert_close(model(torch.tensor([[1, 2, 4]]), torch.tensor([2])), found[2:])
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
