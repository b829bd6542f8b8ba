"""The picture of layers in two dimensions: what its panels hold by each method."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.diagnostics.analyses import scatter
from audiossl.diagnostics.subject import Labels


@pytest.mark.parametrize(("method", "title"), [("pca", "% of the variance"), ("tsne", "tsne")])
def test_panels(method, title, monkeypatch):
    rng, drawn = np.random.default_rng(0), {}
    points = rng.standard_normal((3, 30, 6)).astype(np.float32)
    points[0, :, 1:] = 0.0  # a layer that is a line
    labels = Labels(np.arange(30), np.arange(30) % 2, ("a", "b"))
    subject = SimpleNamespace(
        rows=np.arange(30), num_layers=3, shown_layer=2, seed=0, manifest=range(30),
        labels=lambda: {"utt2word": labels}, points=lambda layer, rows: points[layer][rows],
    )  # fmt: skip
    monkeypatch.setattr(scatter, "draw_scatter", lambda figure, panels, labels, names: drawn.update(panels))
    scatter.run(subject, scatter.Config(method=method, max_points=20))
    assert [name.partition(":")[0] for name in drawn] == ["layer 0", "layer 1", "layer 2"]
    assert all(title in name for name in drawn)
    assert all(panel.shape == (20, 2) and np.isfinite(panel).all() for panel in drawn.values())
