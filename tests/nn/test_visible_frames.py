"""A Transformer that sees some frames alone, and what its layers add: the student and the teacher of data2vec."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from audiossl.nn.attention import FrameLayout
from audiossl.nn.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(
    num_layers=3, dim=16, ffn_dim=32, num_heads=2, layer_drop=0.0, position_kernel=5, position_groups=2
)
LENGTHS = torch.tensor([9, 4, 7])
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
each = pytest.mark.parametrize(("pre_norm", "packed", "depth"), [(False, False, 1), (True, False, 2), (False, True, 2)])


def make(*, packed=None, **changes):
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, **changes), packed=packed).eval()
    visible = torch.rand(3, 9) < 0.6
    visible &= torch.arange(9) < LENGTHS[:, None]
    assert visible.any(1).all()
    return model, torch.randn(3, 9, 16), visible


def alone(model, x, visible):
    """One utterance without padding: positions of all frames, with the hidden ones zero; then only the visible ones."""
    x = torch.where(visible[:, None], x, 0.0)[None]
    x = (x + model.positions(x))[:, visible]
    x = x if model.pre_norm else model.norm(x)
    layout = FrameLayout.of(torch.tensor([x.shape[1]]), x.shape[1], packed=False)
    for layer in model.layers:
        x = layer(x, layout)
    return (model.norm(x) if model.pre_norm else x)[0]


@each
def test_visible_frames_equal_a_run_on_only_those(pre_norm, packed, depth):
    model, x, visible = make(pre_norm=pre_norm, packed=packed, position_depth=depth)
    found = model.visible(x, LENGTHS, visible)
    for row, length in enumerate(LENGTHS):
        expected = alone(model, x[row, :length], visible[row, :length])
        torch.testing.assert_close(found[row][visible[row]], expected, atol=1e-5, rtol=1e-5)


@each
def test_nothing_hidden_is_heard(pre_norm, packed, depth):
    model, x, visible = make(pre_norm=pre_norm, packed=packed, position_depth=depth)
    other = torch.where(visible.unsqueeze(-1), x, 7.0)
    a, b = (model.visible(each, LENGTHS, visible)[visible] for each in (x, other))
    assert torch.equal(a, b)


def test_gradients_of_packed_and_gathered_frames_agree():
    gradients = []
    for packed in (False, True):
        model, x, visible = make(packed=packed)
        model.visible(x, LENGTHS, visible)[visible].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for gathered, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gathered, other, atol=1e-4, rtol=1e-4)


def test_all_frames_visible_is_the_usual_run():
    model, x, _ = make(position_depth=2)
    everything = torch.ones(3, 9, dtype=torch.bool)
    full = torch.full((3,), 9)
    torch.testing.assert_close(model.visible(x, full, everything), model(x, full)[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_frames_come_back_to_their_places(packed):
    _, x, visible = make()
    layout = FrameLayout.of_visible(visible, packed=packed)
    inside = layout.enter(x)
    assert inside.shape == ((int(visible.sum()), 16) if packed else (3, int(visible.sum(1).max()), 16))
    assert torch.equal(layout.leave(inside)[visible], x[visible])


@pytest.mark.parametrize("packed", [False, True])
def test_an_utterance_without_visible_frames_is_finite(packed):
    model, x, visible = make(packed=packed)
    visible[1] = False
    assert model.visible(x, LENGTHS, visible)[visible].isfinite().all()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_what_a_layer_adds(pre_norm):
    model, x, _ = make(pre_norm=pre_norm)
    layer, layout = model.layers[0], FrameLayout(3, 9)
    output, added = layer.parts(x, layout)
    assert torch.equal(output, layer(x, layout))
    if pre_norm:
        inner = x + layer.attention(layer.attention_norm(x), layout)
        expected = layer.ffn_out(F.gelu(layer.ffn_in(layer.ffn_norm(inner))))
        torch.testing.assert_close(output, inner + expected)
    else:
        inner = layer.attention_norm(x + layer.attention(x, layout))
        expected = layer.ffn_out(F.gelu(layer.ffn_in(inner)))
        torch.testing.assert_close(output, layer.ffn_norm(inner + expected))
    torch.testing.assert_close(added, expected)
    layer.train().dropout.p = 1.0
    torch.testing.assert_close(layer.parts(x, layout)[1].norm(dim=-1) > 0, torch.ones(3, 9, dtype=torch.bool))


@pytest.mark.parametrize("packed", [False, True])
def test_padding_changes_nothing_with_stacked_positions(packed):
    model, x, _ = make(position_depth=3, packed=packed)
    together = model(x, LENGTHS)[-1]
    for row, length in enumerate(LENGTHS):
        single = model(x[row : row + 1, :length], length[None])[-1][0]
        torch.testing.assert_close(together[row, :length], single, atol=1e-5, rtol=1e-5)
