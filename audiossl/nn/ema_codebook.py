"""Codebooks learnt online: each code is the moving average of the vectors that are nearest to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EMACodebooks(nn.Module):
    """Several codebooks, updated together (DinoSR: Liu et al., 2023, eq. 2 and 3; van den Oord et al., 2017, appendix A.1).

    sums: (book, code, dim) and counts: (book, code), moving averages whose ratio is the code. Codes start as N(0, 1), standardised over the
    codes of a book; counts start as 1. What is observed between two updates, in all micro-batches and processes, counts as one batch.
    """

    sums: Tensor
    counts: Tensor
    pending: Tensor

    def __init__(self, num_books: int, num_codes: int, dim: int, *, decay: float) -> None:
        super().__init__()
        self.decay = decay
        codes = torch.randn(num_books, dim, num_codes)
        self.register_buffer("sums", F.instance_norm(codes).transpose(1, 2).contiguous())
        self.register_buffer("counts", torch.ones(num_books, num_codes))
        # Sums, and counts as the last column: one tensor, so that processes exchange it at once. Empty whenever a checkpoint is written.
        self.register_buffer("pending", torch.zeros(num_books, num_codes, dim + 1), persistent=False)

    def codes(self) -> Tensor:
        """(book, code, dim)."""
        return self.sums / self.counts.unsqueeze(-1)

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """The code nearest to each vector by Euclidean distance: (book, row) int64. vectors: (book, row, dim)."""
        with torch.autocast(vectors.device.type, enabled=False):
            codes = self.codes()
            # ||x - c||^2 less ||x||^2, which is the same for all codes
            distance = codes.square().sum(-1).unsqueeze(1) - 2 * (vectors.to(codes) @ codes.transpose(1, 2))
        return distance.argmin(-1)

    @torch.no_grad()
    def observe(self, vectors: Tensor, nearest: Tensor) -> None:
        """Note vectors and their codes for the next `update`. vectors: (book, row, dim); nearest: (book, row)."""
        with torch.autocast(vectors.device.type, enabled=False):
            # A matrix product, for adding rows by index is not repeatable on a GPU.
            chosen = F.one_hot(nearest, self.counts.shape[1]).to(self.pending).transpose(1, 2)  # (book, code, row)
            usable = vectors.isfinite().all(-1, keepdim=True)  # or else 0 x infinity would reach every code
            vectors, chosen = vectors.where(usable, 0), chosen * usable.transpose(1, 2)
            self.pending[..., :-1] += chosen @ vectors.to(self.pending)
            self.pending[..., -1] += chosen.sum(-1)

    @torch.no_grad()
    def update(self) -> None:
        """Move the codes that were nearest to something; the others keep sum and count, as published: none is ever reset.

        s <- decay s + (1 - decay) sum, n <- decay n + (1 - decay) count. Every process has to call this. Vectors with infinities do not count.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.pending)
        active = (self.pending[..., -1] > 0) & self.pending.isfinite().all(-1)
        keep = 1 - (1 - self.decay) * active.to(self.sums)
        seen = torch.where(active.unsqueeze(-1), self.pending, 0.0)
        self.sums.mul_(keep.unsqueeze(-1)).add_(seen[..., :-1], alpha=1 - self.decay)
        self.counts.mul_(keep).add_(seen[..., -1], alpha=1 - self.decay)
        self.pending.zero_()
