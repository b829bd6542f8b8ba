"""Heads side by side against one head at a time, on frames, with torch's own layers, gradients, optimiser and clipping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossl.contracts import EncoderOutput
from audiossl.diagnostics.batched_heads import HeadGrid, HeadShape, Stepper
from audiossl.nn.pooling import UtteranceHead, mean_over_frames

LAYERS, DIM, PROJECTOR, BATCH, FRAMES = 3, 6, 5, 8, 16
# Fewer outputs than utterances, more of them than that, and three labels.
CLASSES = [(4,), (11,), (3, 2, 4)]
SHAPES = [HeadShape(LAYERS, DIM, projector, classes) for projector in (0, PROJECTOR) for classes in CLASSES]


class FrameHead(nn.Module):
    """The published order of things: every frame through the weighted sum and the projector, then the mean over valid ones."""

    def __init__(self, state):
        super().__init__()
        self.parts = nn.ParameterDict({name.replace(".", "_"): value for name, value in state.items()})

    def forward(self, layers, lengths):
        part = self.parts
        x = sum(w * layer for w, layer in zip(part["weighted_layer_logits"].softmax(0), layers, strict=True))
        if "projector_weight" in part:
            x = F.linear(x, part["projector_weight"], part["projector_bias"])
        means = torch.stack([row[:length].mean(dim=0) for row, length in zip(x, lengths, strict=True)])
        return F.linear(means, part["classifier_weight"], part["classifier_bias"])


def corpus(count, classes, seed=0):
    """Frames whose means are exact in float32, the means, and labels: [(count, frame, dim)] * layers, lengths, (count, layer, dim), (count, label)."""
    rng = np.random.default_rng(seed)
    layers = [torch.from_numpy(rng.integers(-64, 64, (count, FRAMES, DIM)) / 16.0) for _ in range(LAYERS)]
    lengths = torch.from_numpy(2 ** rng.integers(0, 5, count))
    for layer in layers:
        layer[torch.arange(FRAMES) >= lengths[:, None]] = 1e6  # padding that must not count
    means = torch.stack([mean_over_frames(layer, lengths) for layer in layers], dim=1)
    assert torch.equal(means.float().double(), means)
    labels = torch.from_numpy(np.stack([rng.integers(0, k, count) for k in classes], axis=1))
    return layers, lengths, means, labels


def loss_of(scores, labels, classes):
    return sum(F.cross_entropy(part, labels[:, k]) for k, part in enumerate(scores.split(list(classes), dim=1)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_autograd_through_frames(shape):
    grid = HeadGrid.start(shape, 2, (0, 7), torch.float64, "cpu")
    grid.values += 0.3 * torch.randn(grid.values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = [corpus(BATCH, shape.classes, seed) for seed in (1, 2)]  # one batch for each group
    x, labels = (torch.stack([one[k] for one in data]) for k in (2, 3))
    stepper = Stepper(grid, (0.1, 0.01))
    stepper.differentiate(torch.zeros_like(x), labels)  # nothing of an earlier call stays
    found = stepper.differentiate(x, labels)
    for rate in range(2):
        for group, (layers, lengths, _, wanted) in enumerate(data):
            head = FrameHead(grid.state(rate, group))
            loss_of(head(layers, lengths), wanted, shape.classes).backward()
            for name, value in found.state(rate, group).items():
                torch.testing.assert_close(value, head.parts[name.replace(".", "_")].grad, rtol=1e-9, atol=1e-12)
                assert value.abs().sum() > 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_head_comes_out_as_trained_alone_on_frames(shape):
    rates, steps, seeds = (3e-2, 1e-3), 25, (0, 7)
    layers, lengths, means, labels = corpus(50, shape.classes)
    grid = HeadGrid.start(shape, len(rates), seeds, torch.float64, "cpu")
    start = grid.values.clone()
    heads = {(r, g): FrameHead(grid.state(r, g)) for r in range(len(rates)) for g in range(len(seeds))}
    optimisers = {place: torch.optim.Adam(head.parameters(), lr=rates[place[0]]) for place, head in heads.items()}
    stepper = Stepper(grid, rates, clip_norm=1.0)
    draw = torch.Generator().manual_seed(0)
    norms = []
    for _ in range(steps):
        items = torch.randint(50, (len(seeds), BATCH), generator=draw)
        stepper.step(means[items], labels[items])
        for (rate, group), head in heads.items():
            own = items[group]
            optimisers[rate, group].zero_grad()
            loss_of(head([layer[own] for layer in layers], lengths[own]), labels[own], shape.classes).backward()
            norms.append(nn.utils.clip_grad_norm_(head.parameters(), 1.0))
            optimisers[rate, group].step()
    assert min(norms) < 1 < max(norms)  # the clipping bit, and not always
    assert (grid.values != start).any(dim=-1).all()
    logits = grid.logits(means[None])  # (rate, group, item, output)
    for (rate, group), head in heads.items():
        wanted = head(layers, lengths)
        torch.testing.assert_close(logits[rate, group], wanted, rtol=0, atol=1e-5)
        assert (wanted - FrameHead(HeadGrid(shape, start).state(rate, group))(layers, lengths)).abs().max() > 0.02


def test_float32_stays_close_to_float64():
    shape, rates = HeadShape(LAYERS, DIM, PROJECTOR, (4,)), (1e-2, 1e-3)
    _, _, means, labels = corpus(50, (4,))
    logits = []
    for dtype in (torch.float32, torch.float64):
        grid = HeadGrid.start(shape, len(rates), (0,), dtype, "cpu")
        stepper = Stepper(grid, rates, clip_norm=1.0)
        draw = torch.Generator().manual_seed(0)
        for _ in range(25):
            items = torch.randint(50, (1, BATCH), generator=draw)
            stepper.step(means[items].to(dtype), labels[items])
        logits.append(grid.logits(means[None].to(dtype)).double())
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)


def test_a_head_fits_the_module_that_tasks_have():
    shape = HeadShape(LAYERS, DIM, PROJECTOR, (3, 2))
    layers, lengths, means, _ = corpus(9, shape.classes)
    grid = HeadGrid.start(shape, 2, (0, 1), torch.float64, "cpu")
    grid.values.normal_(generator=torch.Generator().manual_seed(0))
    head = UtteranceHead(DIM, LAYERS - 1, 5, projector_dim=PROJECTOR).double()
    head.load_state_dict(grid.state(1, 0))
    torch.testing.assert_close(head(EncoderOutput(layers, lengths)), grid.logits(means[None])[1, 0])
    torch.testing.assert_close(head.weighted.shares(), grid.shares()[1, 0])
    picked = grid.pick([1], [1, 0])
    torch.testing.assert_close(picked.logits(means[None])[0, 1], grid.logits(means[None])[1, 0])


def test_heads_start_as_linear_layers_do_equal_in_a_group_with_equal_layers():
    shape = HeadShape(LAYERS, 400, 100, (50,))
    grid = HeadGrid.start(shape, 2, (0, 1), torch.float64, "cpu")
    assert torch.equal(grid.values[0], grid.values[1])
    assert not torch.equal(grid.values[0, 0], grid.values[0, 1])
    assert (grid.shares() == 1 / LAYERS).all()
    for name, bound in (("projector", 400**-0.5), ("classifier", 100**-0.5)):
        for kind in ("weight", "bias"):
            value = grid.parts[f"{name}.{kind}"][0, 0]
            assert bound * 0.8 < value.abs().max() <= bound
            assert abs(value.mean()) < 0.2 * bound


def test_weight_decay_is_decoupled():
    shape = HeadShape(1, 2, 0, (2,))
    grid = HeadGrid(shape, torch.ones(2, 1, 7, dtype=torch.float64))
    stepper = Stepper(grid, (0.1, 0.2), weight_decay=0.5)
    stepper.step(torch.zeros(1, 2, 1, 2, dtype=torch.float64), torch.tensor([[[0], [1]]]))  # no gradient at all
    torch.testing.assert_close(grid.values[:, 0, 0], torch.tensor([0.95, 0.9]).double())
