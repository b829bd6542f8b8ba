"""BEST-RQ's quantiser: a random projection and random codes, neither of which ever learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class RandomProjectionQuantiser(nn.Module):
    """Nearest of some random unit vectors to the direction of a random projection, in several books (Chiu et al., 2022, section 3.1).

    projection: (book, dim, code_dim), Xavier uniform. codes: (book, code, code_dim), normal and then of length 1. Both are buffers, drawn
    from torch's global generator at construction, and saved with the weights: a run that goes on has the codes that it began with.
    """

    projection: Tensor
    codes: Tensor

    def __init__(self, dim: int, *, code_dim: int = 16, num_codes: int = 8192, books: int = 1) -> None:
        super().__init__()
        projection = torch.stack([nn.init.xavier_uniform_(torch.empty(dim, code_dim)) for _ in range(books)])
        self.register_buffer("projection", projection)
        self.register_buffer("codes", F.normalize(torch.randn(books, num_codes, code_dim), dim=2))

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Codes of frames, (frame, book) int64. frames: (frame, dim), with features of zero mean and unit variance.

        argmin over c of the distance of the code c from A x / |A x|, which for unit vectors is the argmax of their inner product, whose
        sign and order the length of A x does not change. In float32 also under autocast, for codes lie close together.
        """
        with torch.autocast(frames.device.type, enabled=False):
            projected = frames.to(self.projection.dtype) @ self.projection  # (book, frame, code_dim)
            return (projected @ self.codes.transpose(1, 2)).argmax(dim=2).T
