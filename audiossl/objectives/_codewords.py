"""What HuBERT and those built on it share: logits that are cosines of projected frames and codewords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from audiossl.losses.codeword_cross_entropy import codeword_cross_entropy
from audiossl.objectives._units import UnitConfig, UnitObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


@dataclass(frozen=True)
class CodewordConfig(UnitConfig):
    """Tables of codewords, which have 4 special rows where they are published. final_dim: of projected frames and codewords."""

    final_dim: int = 256
    penalty_weight: float = 10.0
    special_rows: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_dim < 1:
            raise ValueError(f"objective.final_dim: {self.final_dim} is not positive")


class CodewordObjective(UnitObjective):
    """The base: an encoder, one projection and one table of codewords per label set, at the last layer.

    num_codes: codebook size of each label set. Codewords start as N(0, 1), our choice: the published code draws them from the uniform distribution
    on [0, 1).
    """

    def __init__(self, encoder: SSLEncoder, config: CodewordConfig, num_codes: tuple[int, ...]) -> None:
        super().__init__(encoder, config, num_codes)
        self.projections = nn.ModuleList(nn.Linear(encoder.dim, config.final_dim) for _ in num_codes)
        self.codewords = nn.ParameterList(
            nn.init.normal_(torch.empty(classes, config.final_dim)) for classes in self.classes
        )

    def cross_entropy(self, head: int, label_set: int, frames: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - one layer
        """See `codeword_cross_entropy`."""
        return codeword_cross_entropy(
            self.projections[label_set](frames),
            self.codewords[label_set],
            classes,
            temperature=self.config.temperature,
        )
