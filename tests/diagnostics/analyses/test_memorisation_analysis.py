"""SSLMem against its formula as a loop, and on two small networks of which each learned views that the other did not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.diagnostics.analyses.memorisation import Config, memorisation, view_distances


def test_distances_are_the_mean_over_views_on_the_sphere():
    rng = np.random.default_rng(0)
    anchors, views = rng.standard_normal((7, 4)), rng.standard_normal((7, 3, 4))
    wanted = [
        np.mean([math.dist(x / np.linalg.norm(x), view / np.linalg.norm(view)) for view in of])
        for x, of in zip(anchors, views, strict=True)
    ]
    np.testing.assert_allclose(view_distances(anchors, views), wanted, atol=1e-12)


def test_scores_are_divided_by_their_range():
    own, other = np.array([0.1, 0.5, 0.4]), np.array([0.5, 0.5, 0.0])
    np.testing.assert_allclose(memorisation(own, other), np.array([0.4, 0.0, -0.4]) / 0.8)
    np.testing.assert_array_equal(memorisation(own, own), np.zeros(3))
    # Of one sign: 0 counts among them, so that none leaves [-1, 1].
    np.testing.assert_allclose(memorisation(own, own + np.array([0.8, 0.6, 0.4])), [1.0, 0.75, 0.5])
    np.testing.assert_allclose(memorisation(own + 0.4, own), -np.ones(3))
    with pytest.raises(ValueError, match=r"memorisation\.draws is 0"):
        Config(draws=0)


def trained(data, seed, *, batch=None, steps=300):
    """A wide network that pulls noisy views of each row together and rows apart, not from its copies: SimCLR's loss on vectors."""
    torch.manual_seed(0)  # the same start
    network = torch.nn.Sequential(torch.nn.Linear(24, 256), torch.nn.ReLU(), torch.nn.Linear(256, 16))
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(steps):
        rows = data if batch is None else data[torch.randperm(len(data), generator=generator)[:batch]]
        views = rows + 0.7 * torch.randn(2, *rows.shape, generator=generator)
        first, second = F.normalize(network(views), dim=-1)
        copies = (rows[:, None] == rows).all(dim=-1) & ~torch.eye(len(rows), dtype=torch.bool)
        scores = (first @ second.T / 0.2).masked_fill(copies, -torch.inf)
        loss = F.cross_entropy(scores, torch.arange(len(rows)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def test_candidates_are_memorised_and_shared_rows_are_not():
    from scipy.stats import mannwhitneyu

    generator = torch.Generator().manual_seed(0)
    shared, candidates, independent = torch.randn(3, 60, 24, generator=generator)
    f, g = trained(torch.cat([shared, candidates]), 1), trained(torch.cat([shared, independent]), 2)
    rows = torch.cat([shared, candidates, independent])
    views = rows[:, None] + 0.7 * torch.randn(len(rows), 5, 24, generator=generator)
    with torch.no_grad():
        own, other = (view_distances(network(rows).numpy(), network(views).numpy()) for network in (f, g))
    of_shared, of_candidates, of_independent = np.split(memorisation(own, other), 3)
    assert mannwhitneyu(of_candidates, of_shared, alternative="greater").pvalue < 0.01
    assert mannwhitneyu(of_independent, of_shared, alternative="less").pvalue < 0.01
    assert of_candidates.mean() > 0.05
    assert of_independent.mean() < -0.05
    assert abs(of_shared.mean()) < 0.5 * of_candidates.mean()


def test_injected_duplicates_rank_in_the_top_decile():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(360, 24, generator=generator)
    shared, candidates, independent = rows.split([240, 60, 60])
    often = candidates[:6].repeat(60, 1)
    f = trained(torch.cat([shared, candidates, often]), 1, batch=64, steps=500)
    g = trained(torch.cat([shared, independent]), 2, batch=64, steps=500)
    views = rows[:, None] + 0.7 * torch.randn(len(rows), 10, 24, generator=generator)
    with torch.no_grad():
        own, other = (view_distances(network(rows).numpy(), network(views).numpy()) for network in (f, g))
    ranked = np.argsort(-memorisation(own, other))
    assert set(range(240, 246)) <= set(ranked[: len(rows) // 10].tolist())
