"""A few rounds of k-means, to begin a codebook where the data is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def cluster_means(frames: Tensor, count: int, *, iterations: int = 10) -> Tensor:
    """Means of `count` clusters of frames, (count, dim), by Lloyd's algorithm from frames drawn with torch's global generator.

    frames: (frame, dim). A cluster that no frame is nearest to keeps the mean that it had. ValueError where there are fewer frames than clusters.
    """
    if len(frames) < count:
        raise ValueError(
            f"{len(frames)} frames are too few for {count} codes to begin with; give more audio or fewer codes"
        )
    means = frames[torch.randperm(len(frames), device=frames.device)[:count]]
    for _ in range(iterations):
        nearest = (frames @ means.T - means.square().sum(1) / 2).argmax(dim=1)
        members = F.one_hot(nearest, count).to(
            frames
        )  # a matrix product, for adding rows by index is not repeatable on a GPU
        sizes = members.sum(0).unsqueeze(1)
        means = torch.where(sizes > 0, members.T @ frames / sizes.clamp(min=1), means)
    return means
