"""The quantiser against the published product of one-hot vectors and codebook."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiossl.nn.gumbel_quantiser import GumbelQuantiser, code_perplexity, gumbel_temperature, perplexity


def quantiser(**options):
    torch.manual_seed(0)
    return GumbelQuantiser(6, **({"groups": 2, "entries": 5, "code_dim": 8} | options))


def frames(count=11):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def published(module, x, temperature):
    """Hard Gumbel softmax, and the broadcast product summed over entries."""
    logits = module.logits(x).view(len(x) * module.groups, -1)
    uniform = torch.empty_like(logits).exponential_().log()
    soft = ((logits - uniform) / temperature).softmax(dim=-1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    chosen = (hard - soft.detach() + soft).view(len(x), -1, 1)
    codebook = module.codebook.expand(module.groups, -1, -1).flatten(0, 1)
    return (chosen * codebook).view(len(x), module.groups, module.entries, -1).sum(2).flatten(1)


@pytest.mark.parametrize(
    "options", [{}, {"shared": True}, {"hidden_layers": 1}, {"hidden_layers": 2, "activation": "relu"}]
)
def test_values_and_gradients_equal_the_published_product(options):
    module = quantiser(**options).double()
    results = []
    for form in (lambda x: published(module, x, 0.75), lambda x: module(x, torch.tensor(0.75)).q):
        x = frames().double().requires_grad_()
        torch.manual_seed(3)
        q = form(x)
        weights = torch.arange(q.numel(), dtype=torch.float64).view_as(q).sin()
        results.append((q.detach(), *torch.autograd.grad((q * weights).sum(), [x, *module.parameters()])))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert all(value.abs().sum() > 0 for value in results[0])


def test_in_training_the_choice_is_drawn_and_equal_codes_are_equal_values():
    module = quantiser(entries=2)
    torch.manual_seed(0)
    q, codes, _ = module(frames(1).expand(4000, -1) * 0.05, 1.0)
    drawn = torch.stack([(codes[:, g] == 0).float().mean() for g in range(2)])
    wanted = module(frames(1) * 0.05, 1.0).soft_probs[0, :, 0]
    torch.testing.assert_close(drawn, wanted, atol=0.03, rtol=0)
    for code in {tuple(code) for code in codes.tolist()}:
        same = q[(codes == torch.tensor(code)).all(dim=1)]
        assert (same == same[0]).all()


def test_in_evaluation_the_likeliest_entries_are_chosen():
    module = quantiser().eval()
    q, codes, soft = module(frames(), 0.5)
    logits = module.logits(frames()).view(11, 2, 5).detach().numpy()
    assert codes.tolist() == logits.argmax(-1).tolist()
    rows = [
        np.concatenate([module.codebook[g, code].detach().numpy() for g, code in enumerate(row)])
        for row in codes.tolist()
    ]
    np.testing.assert_array_equal(q.detach().numpy(), rows)
    np.testing.assert_allclose(soft.detach().numpy(), np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), rtol=1e-5)


def test_published_sizes_and_initial_values():
    wav2vec2 = GumbelQuantiser(512, groups=2, entries=320, code_dim=256)
    assert wav2vec2.codebook.shape == (2, 320, 128)
    assert 0 <= wav2vec2.codebook.min() < 0.01 < 0.99 < wav2vec2.codebook.max() <= 1
    assert wav2vec2.logits.weight.shape == (640, 512)
    assert wav2vec2.logits.weight.std().item() == pytest.approx(1, abs=0.01)
    assert not wav2vec2.logits.bias.any()
    vq = GumbelQuantiser(512, groups=2, entries=320, code_dim=512, shared=True, hidden_layers=1)
    assert vq.codebook.shape == (1, 320, 256)
    assert [layer.weight.shape for layer in vq.logits if hasattr(layer, "weight")] == [(1024, 512), (640, 1024)]


def test_under_autocast_the_choice_is_made_in_float32():
    module = quantiser()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, _, soft = module(frames(), 1.0)
    assert q.dtype == soft.dtype == torch.float32
    torch.testing.assert_close(soft, module(frames(), 1.0).soft_probs, rtol=0, atol=0)


def test_identity_tells_all_combinations_apart():
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    assert len(set(quantiser().identity(codes).tolist())) == 25


def test_temperature_cools_as_published():
    assert gumbel_temperature(0) == 2.0
    assert gumbel_temperature(100_000) == pytest.approx(2 * math.exp(100_000 * math.log(0.999995)))
    assert gumbel_temperature(277_000) > 0.5 == gumbel_temperature(278_000)
    assert gumbel_temperature(10**7, end=0.1) == 0.1


def test_perplexities():
    assert perplexity(torch.tensor([0.25, 0.75])).item() == pytest.approx(
        math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    )
    codes = torch.tensor([[0, 3], [0, 2], [0, 1], [0, 0]])
    torch.testing.assert_close(code_perplexity(codes, 4), torch.tensor([1.0, 4.0]))
    assert code_perplexity(codes[:0], 4).isfinite().all()


def test_no_frames_are_no_trouble():
    q, codes, soft = quantiser()(frames(0), 1.0)
    assert q.shape == (0, 8)
    assert codes.shape == (0, 2)
    assert soft.shape == (0, 2, 5)


def test_a_code_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="code_dim 9 does not split into 2 groups"):
        quantiser(code_dim=9)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("hidden_layers", [0, 1])
def test_logits_from_data_choose_the_nearest_cluster(hidden_layers, shared):
    torch.manual_seed(0)
    shape = {"groups": 2, "entries": 5, "code_dim": 4, "hidden_layers": hidden_layers, "shared": shared}
    quantiser = GumbelQuantiser(8, **shape, activation="relu").double().eval()
    x = 3 + torch.randn(400, 8, dtype=torch.float64)
    quantiser.start_from(x)
    hidden = quantiser.logits[:-1](x) if hidden_layers else x
    last = quantiser.logits[-1] if hidden_layers else quantiser.logits
    found, width = quantiser(x, 1.0), hidden.shape[1] // 2
    for group in range(2):
        rows, own, other = slice(5 * group, 5 * group + 5), slice(group * width, group * width + width), 1 - group
        assert not last.weight[rows, other * width : other * width + width].any()
        share = hidden[:, own] - hidden[:, own].mean(0)
        logits = last(hidden)[:, rows]
        assert float(logits.std(dim=1).mean()) == pytest.approx(10, rel=1e-6)
        # Logits s (m.h - |m|^2 / 2) have the gradient s m, and at the centre the value -s |m|^2 / 2.
        at_centre = last(hidden.mean(0))[rows]
        scale = last.weight[rows].square().sum(1) / (-2 * at_centre)
        torch.testing.assert_close(scale, scale[:1].expand(5))
        means = last.weight[rows, own] / scale[:, None]
        assert torch.equal(found.codes[:, group], torch.cdist(share, means).argmin(1))
    assert code_perplexity(found.codes, 5).min() > 3
    assert float(quantiser.codebook.std()) == pytest.approx(1, rel=0.05)
