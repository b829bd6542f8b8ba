"""Iterative normalisation: whitening by a few matrix products, without a decomposition."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IterNorm(nn.Module):
    """Whitens groups of dimensions over the batch (Huang et al., 2019, algorithm 1), then scales each dimension.

    Per group, with S = covariance + eps I and trace t: W = P_T / sqrt(t), P_0 = I and P_k = (3 P_(k-1) - P_(k-1)^3 S / t) / 2, which comes
    near S^(-1/2) after a few Newton iterations and holds back directions of little variance, which it would take more to whiten; far more
    than the published 5 diverge, for rounding errors grow in them. The covariance is divided by the number of rows. In eval mode mean and
    W are the running ones. All in float32, also under autocast. There is no shift: what compares two batches that were normalised alike
    would not see it. ValueError where the groups do not come out even.
    """

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self, dim: int, *, groups: int = 64, iterations: int = 5, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if groups < 1 or dim % groups:
            raise ValueError(
                f"groups {groups}: {dim} dimensions do not make so many groups of one size; give a divisor"
            )
        self.groups, self.iterations, self.eps, self.momentum = groups, iterations, eps, momentum
        size = dim // groups
        self.scale = nn.Parameter(torch.ones(dim))
        self.register_buffer("running_mean", torch.zeros(groups, size))
        self.register_buffer("running_whitening", torch.eye(size).repeat(groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, dim), two rows or more in training. Returns the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            grouped = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(len(x), self.groups, -1)
            mean, whitening = (
                self._statistics(grouped) if self.training else (self.running_mean, self.running_whitening)
            )
            whitened = torch.einsum("ngd,ged->nge", grouped - mean, whitening)
            return whitened.flatten(1) * self.scale

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (group, dim) and whitening matrix (group, dim, dim) of the batch, which the running ones follow."""
        mean = x.mean(0)
        centred = x - mean
        identity = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
        covariance = torch.einsum("ngd,nge->gde", centred, centred) / len(x) + self.eps * identity
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        root = identity.expand_as(covariance)
        for _ in range(self.iterations):
            root = (3 * root - root @ root @ root @ (covariance / trace)) / 2
        whitening = root / trace.sqrt()
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_whitening.lerp_(whitening.to(self.running_whitening), self.momentum)
        return mean, whitening
