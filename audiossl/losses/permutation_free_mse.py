"""Squared error of outputs that have no order of their own: sources of a mixture, without names."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import torch

from audiossl.losses._precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def permutation_free_mse(estimates: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Least squared error over all ways to match outputs with sources, one way for a whole utterance (Kolbaek et al., 2017, eq. 9).

    min over p of sum_{t, f, s} (estimates[t, f, s] - targets[t, f, p(s)])^2 / (frames x sources): (batch,). As in SUPERB's code bins are summed and
    not averaged. estimates, targets: (batch, frame, bin, source). lengths: (batch,) valid frames. There are source! ways: for few.
    """
    if estimates.shape != targets.shape:
        raise ValueError(
            f"estimates {tuple(estimates.shape)} and targets {tuple(targets.shape)} differ; give as many of each"
        )
    sources = estimates.shape[3]
    lengths = lengths.to(estimates.device)
    valid = torch.arange(estimates.shape[1], device=estimates.device) < lengths.unsqueeze(1)
    estimates = estimates.masked_fill(~valid[..., None, None], 0.0)
    targets = targets.to(estimates.dtype).masked_fill(~valid[..., None, None], 0.0)
    # One pair at a time: all at once would hold sources^2 spectra.
    pairs = torch.stack(
        [
            torch.stack([(estimates[..., s] - targets[..., t]).square().sum(dim=(1, 2)) for t in range(sources)], dim=1)
            for s in range(sources)
        ],
        dim=1,
    )  # (batch, output, source)
    ways = torch.tensor(list(permutations(range(sources))), device=estimates.device)
    sums = pairs[:, torch.arange(sources, device=estimates.device), ways].sum(dim=2)  # (batch, way)
    least: Tensor = sums.min(dim=1).values / (lengths.clamp(min=1) * sources)
    return least
