"""Full fine-tuning: everything trains, but for the frontend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


class Full:
    """Train the encoder but, as published, not its frontend (Baevski et al., 2020, section 4.3)."""

    saves_all: ClassVar[bool] = True
    """A checkpoint holds all of the encoder: nothing is left to be verified against the one that it started from."""

    @dataclass(frozen=True)
    class Config:
        """freeze_frontend: whether the convolutions before the first layer norm stay as they are; an encoder of units has none."""

        freeze_frontend: bool = True

        @classmethod
        def tiny(cls) -> Full.Config:
            """Return the smallest one, for tests."""
            return cls()

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: SSLEncoder) -> None:
        """Make the parameters trainable; it adds none. ValueError where the frontend should train and the encoder gives it no gradient."""
        if not self.config.freeze_frontend and getattr(encoder, "feature_grad_mult", 1.0) == 0:
            raise ValueError(
                "adapter.freeze_frontend: false, but encoder.feature_grad_mult is 0, which freezes the frontend; set that to 1, or leave this out"
            )
        encoder.requires_grad_(requires_grad=True)
        for name, module in encoder.named_children():
            if name == "frontend":
                module.requires_grad_(not self.config.freeze_frontend)

    def trainable_state(self, encoder: SSLEncoder) -> dict[str, Tensor]:
        """Return the whole encoder, frontend and buffers too, so that a checkpoint needs no other."""
        return dict(encoder.state_dict())
