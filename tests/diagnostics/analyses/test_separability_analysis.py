"""Classes that stand further apart from layer to layer, beside shuffled ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.analyses.separability import Config, run
from audiossl.diagnostics.finding import SkippedError
from audiossl.diagnostics.subject import Labels
from audiossl.metrics.gaussian_bhattacharyya import gaussian_bhattacharyya

LAYERS = 5


def subject(found=None, strengths=None):
    rng = np.random.default_rng(0)
    numbers = np.arange(300) % 3
    centres = rng.standard_normal((3, 12))
    chosen = np.linspace(0.0, 4.0, LAYERS) if strengths is None else strengths
    layers = [
        (
            strength * (centres[numbers] + 0.3 * rng.standard_normal((300, 12)))
            + rng.standard_normal((300, 12)) * (strength >= 0)
        ).astype(np.float32)
        for strength in chosen
    ]
    layers = [layer if strength >= 0 else np.ones_like(layer) for layer, strength in zip(layers, chosen, strict=True)]
    labels = {"utt2caller": Labels(np.arange(300), numbers, tuple("abc"))} if found is None else found
    return SimpleNamespace(
        num_layers=len(layers), seed=0, layers=layers,
        labels=lambda smallest: labels if smallest == 6 else {}, points=lambda layer, rows: layers[layer][rows],
    )  # fmt: skip


def values(finding):
    return {measure: list(by_layer.values()) for (measure, _), by_layer in finding.by_measure().items()}


def test_distances_grow_with_the_layers_and_not_by_chance():
    seen = subject()
    found = values(run(seen, Config(components=4)))
    for measure in ("Kullback-Leibler divergence", "Bhattacharyya distance"):
        means, least = found[f"{measure} (caller)"], found[f"{measure}, nearest pair (caller)"]
        assert sorted(means) == means
        assert means[-1] > 20 * found[f"{measure}, shuffled labels (caller)"][-1] > 0
        assert means[0] == pytest.approx(found[f"{measure}, shuffled labels (caller)"][0], rel=1.0)
        assert all(0 < low < mean for low, mean in zip(least, means, strict=True))


def test_gaussians_are_those_of_the_classes():
    seen = subject(strengths=[2.0])
    found = values(run(seen, Config(components=4, ridge=0.0)))
    centred = seen.layers[0].astype(np.float64) - seen.layers[0].mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    members = [(centred @ directions[:4].T)[k::3] for k in range(3)]
    matrix = gaussian_bhattacharyya(np.stack([m.mean(0) for m in members]), np.stack([np.cov(m.T) for m in members]))
    wanted = [matrix[i, j] for i in range(3) for j in range(i)]
    assert found["Bhattacharyya distance (caller)"] == pytest.approx([np.mean(wanted)])
    assert found["Bhattacharyya distance, nearest pair (caller)"] == pytest.approx([min(wanted)])


def test_a_collapsed_layer_has_no_distances():
    found = values(run(subject(strengths=[-1.0, 1.0]), Config(components=4)))
    assert all(row[0] == pytest.approx(0.0, abs=1e-9) for row in found.values())


def test_small_classes_are_said():
    with pytest.raises(SkippedError, match=r"two classes of 6 utterances; give more, or --separability\.components K"):
        run(subject(found={}), Config(components=4))
    with pytest.raises(ValueError, match="0 components"):
        Config(components=0)
