"""A grid of perceptrons against NumPy, and against torch's own parts trained one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossl.diagnostics.mlp_grid import Adam, MLPGrid, MLPShape

LAYERS, DIM, WIDTH, OUT = 3, 5, 7, 4
INITS = ("default", "xavier_uniform", "xavier_normal")


def shape(depth=2, *, norm=True, layers=LAYERS):
    return MLPShape(layers, DIM, (WIDTH,) * depth, OUT, norm)


def features(count=9, layers=LAYERS, seed=0):
    return torch.randn(count, layers, DIM, generator=torch.Generator().manual_seed(seed))


def by_hand(grid, head, x, *, masks=None, training=False):
    """Forward pass of one head in NumPy float64. masks: of the dropout, already scaled."""
    part = {name: value[head].double().numpy() for name, value in grid.parts().items()}
    x = x.double().numpy()
    if "layer_logits" in part:
        weights = np.exp(part["layer_logits"]) / np.exp(part["layer_logits"]).sum()
        h = sum(w * x[:, k] for k, w in enumerate(weights))
    else:
        h = x[:, 0]
    for place in range(len(grid.shape.hidden)):
        h = h @ part[f"{place}.weight"].T + part[f"{place}.bias"]
        if grid.shape.batch_norm:
            units = slice(place * WIDTH, (place + 1) * WIDTH)
            mean, variance = (h.mean(0), h.var(0)) if training else grid.running[head, :, units].double().numpy()
            h = (h - mean) / np.sqrt(variance + 1e-5) * part[f"{place}.scale"] + part[f"{place}.shift"]
        h = np.maximum(h, 0)
        h = h if masks is None else h * masks[place]
    last = len(grid.shape.hidden)
    return h @ part[f"{last}.weight"].T + part[f"{last}.bias"]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("depth", "layers"), [(0, 3), (1, 1), (2, 3)])
def test_outputs_are_those_of_each_head_alone(depth, layers, norm):
    grid = MLPGrid.start(shape(depth, norm=norm, layers=layers), INITS, 1)
    generator = torch.Generator().manual_seed(2)
    grid.values += 0.3 * torch.randn(grid.values.shape, generator=generator)
    grid.running += torch.rand(grid.running.shape, generator=generator)
    x = features(layers=layers)
    found = grid.outputs(x)
    assert found.shape == (3, 9, OUT)
    for head in range(3):
        np.testing.assert_allclose(found[head], by_hand(grid, head, x), atol=1e-5)
    assert grid.shares().sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_dropout_and_batch_norm_in_training():
    grid = MLPGrid.start(shape(), INITS, 1)
    x, before = features(), grid.running.clone()
    found = grid.outputs(x, dropout=0.4, generator=torch.Generator().manual_seed(7))
    drawn = torch.Generator().manual_seed(7)
    masks = [(torch.rand(9, WIDTH, generator=drawn) >= 0.4).numpy() / 0.6 for _ in range(2)]
    assert 0 < np.mean(masks[0] == 0) < 1
    for head in range(3):
        np.testing.assert_allclose(found[head], by_hand(grid, head, x, masks=masks, training=True), atol=1e-5)
    assert not torch.equal(grid.running, before)


class Alone(nn.Module):
    """One head of torch's parts."""

    def __init__(self, grid, head):
        super().__init__()
        own = grid.shape
        self.logits = nn.Parameter(torch.zeros(own.layers))
        widths = (own.dim, *own.hidden)
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, (*own.hidden, own.outputs), strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in own.hidden)
        with torch.no_grad():
            for place, linear in enumerate(self.linears):
                linear.weight.copy_(grid.parts()[f"{place}.weight"][head])
                linear.bias.copy_(grid.parts()[f"{place}.bias"][head])

    def forward(self, x):
        h = torch.einsum("l,bld->bd", self.logits.softmax(0), x)
        for linear, norm in zip(self.linears, self.norms, strict=False):
            h = F.relu(norm(linear(h)))
        return self.linears[-1](h)


def test_heads_train_as_if_alone():
    rates = (1e-2, 1e-3, 3e-2)
    grid = MLPGrid.start(shape(), INITS, 1)
    # A bias before a batch norm has no gradient but rounding, which Adam would make as large as any other.
    grid.values, grid.running = grid.values.double(), grid.running.double()
    alone = [Alone(grid, head).double() for head in range(3)]
    optimisers = [torch.optim.Adam(head.parameters(), lr=rate) for head, rate in zip(alone, rates, strict=True)]
    adam = Adam(grid, rates)
    for step in range(12):
        x, wanted = (
            features(11, seed=step).double(),
            torch.randint(OUT, (11,), generator=torch.Generator().manual_seed(step)),
        )
        grid.values.requires_grad_()
        outputs = grid.outputs(x, dropout=0.0)
        total = sum(F.cross_entropy(outputs[head], wanted) for head in range(3))
        (gradient,) = torch.autograd.grad(total, grid.values)
        grid.values = grid.values.detach()
        adam.step(grid, gradient)
        for head, optimiser in zip(alone, optimisers, strict=True):
            optimiser.zero_grad()
            F.cross_entropy(head(x), wanted).backward()
            optimiser.step()
    x = features(seed=99).double()
    found = grid.outputs(x)
    for head in range(3):
        torch.testing.assert_close(found[head], alone[head].eval()(x), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(grid.shares()[0], torch.tensor(1 / 3).double(), atol=1e-3)


def test_initialisations():
    wide = MLPShape(1, 300, (400,), 2)
    parts = MLPGrid.start(wide, INITS, 0).parts()
    assert set(parts) == {"0.weight", "0.bias", "1.weight", "1.bias"}  # a single layer has no share to learn
    first, second = parts["0.weight"], parts["1.weight"]
    assert first[0].abs().max() == pytest.approx(300**-0.5, rel=1e-3)
    assert first[1].abs().max() == pytest.approx((6 / 700) ** 0.5, rel=1e-3)
    assert second[1].abs().max() == pytest.approx(2**0.5 * (6 / 402) ** 0.5, rel=2e-2)
    assert first[2].std() == pytest.approx((2 / 700) ** 0.5, rel=1e-2)
    assert parts["0.bias"].abs().max() <= 300**-0.5
    again = MLPGrid.start(wide, ("xavier_uniform", "xavier_uniform"), 0)
    assert torch.equal(again.values[0], again.values[1])
    assert torch.equal(again.parts()["0.weight"][0], first[1])
    assert not torch.equal(
        MLPGrid.start(wide, ("default",), 1).values[0], MLPGrid.start(wide, ("default",), 0).values[0]
    )
