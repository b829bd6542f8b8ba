"""No adapter: the encoder stays as it is, and only the task's head learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class Frozen:
    """Freeze the whole encoder."""

    @dataclass(frozen=True)
    class Config:
        """Nothing to choose."""

        @classmethod
        def tiny(cls) -> Frozen.Config:
            """Return the smallest one, for tests."""
            return cls()

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: nn.Module) -> None:
        """Make no parameter of the encoder trainable."""
        encoder.requires_grad_(requires_grad=False)

    def trainable_state(self, encoder: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002 - same signature as its siblings
        """Return nothing: the encoder is as it was loaded."""
        return {}
