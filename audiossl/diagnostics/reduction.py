"""Embeddings in fewer dimensions: principal components, t-SNE, or UMAP where its package is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Literal

import numpy as np

from audiossl.diagnostics.pca import principal_components

Reduction = Literal["pca", "tsne", "umap"]
_PERPLEXITY, _NEIGHBOURS = 30, 30


def require(method: Reduction, where: str) -> None:
    """Raise ValueError, before long work, for UMAP where its package is not installed. where: the option that asks for it."""
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ValueError(f"{where} umap: the package is not installed; pip install umap-learn, or take pca")


def reduced(points: np.ndarray, components: int, method: Reduction, seed: int) -> np.ndarray:
    """Embeddings in at most `components` dimensions, fewer where there are few points: (point, component) float32.

    points: (point, dim). t-SNE (van der Maaten and Hinton, 2008) keeps a perplexity of 30, for up to three dimensions; UMAP (McInnes et al., 2018) 30 neighbours
    and no least distance, so that clusters stay dense (our variant).
    """
    if method == "pca":
        return np.ascontiguousarray(principal_components(points, components)[0], dtype=np.float32)
    count = len(points)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few points both fall back to what they say
        if method == "tsne":
            from sklearn.manifold import TSNE

            made = TSNE(components, perplexity=min(_PERPLEXITY, (count - 1) / 3), init="random", random_state=seed)
        else:
            made = importlib.import_module("umap").UMAP(
                n_components=max(1, min(components, count - 2)), n_neighbors=max(2, min(_NEIGHBOURS, count - 1)),
                min_dist=0.0, random_state=seed, n_jobs=1,
            )  # fmt: skip
        return np.ascontiguousarray(made.fit_transform(points), dtype=np.float32)
