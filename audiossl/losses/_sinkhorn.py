"""Balanced soft assignment of the global batch to prototypes, by Sinkhorn and Knopp's iteration in the log domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.gather import Layout


@torch.no_grad()
def sinkhorn(scores: Tensor, layout: Layout, *, epsilon: float, iterations: int) -> Tensor:
    """Codes (own row, prototype) that sum to 1 in every row and to rows / prototypes in every column of the global batch, nearly.

    scores: (own row, prototype), inner products. Q = diag(u) exp(scores / epsilon) diag(v) (Cuturi, 2013; Caron et al., 2020, eq. 3 to
    5); every iteration balances the prototypes over all processes, then the rows. In logarithms no score overflows.
    """
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"sinkhorn: epsilon {epsilon} must be positive and iterations {iterations} at least 1")
    log_codes = scores / epsilon
    log_share = torch.tensor(layout.total / scores.shape[1], dtype=scores.dtype, device=scores.device).log()
    for _ in range(iterations):
        log_codes = log_codes - _log_column_sums(log_codes, layout) + log_share
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.exp()


def _log_column_sums(log_codes: Tensor, layout: Layout) -> Tensor:
    """Logarithm of the sum of each column over all processes, (prototype,)."""
    own = log_codes.logsumexp(dim=0)
    if len(layout.sizes) == 1:
        return own
    highest = own.clone()
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
    total = (own - highest).exp()
    torch.distributed.all_reduce(total)
    return highest + total.log()
