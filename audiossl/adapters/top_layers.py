"""Partial fine-tuning: the layers nearest to the output train, the rest of the encoder stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiossl.adapters._top import top_layers, trained_state

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


class TopLayers:
    """Train the top layers and, in pre-LN encoders, the norm behind the last one. Other encoders have that norm before the first layer."""

    @dataclass(frozen=True)
    class Config:
        """num_top_layers: how many layers, counted from the output; 4 of 12 is our choice."""

        num_top_layers: int = 4

        def __post_init__(self) -> None:
            if self.num_top_layers < 1:
                raise ValueError(
                    f"adapter.num_top_layers: {self.num_top_layers} layers would train; give at least 1, or adapter.name frozen"
                )

        @classmethod
        def tiny(cls) -> TopLayers.Config:
            """Return the smallest one, for tests."""
            return cls(num_top_layers=1)

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: SSLEncoder) -> None:
        """Make these parameters trainable and no other; it adds none. ValueError if there are too few layers."""
        layers = top_layers(encoder, self.config.num_top_layers)
        encoder.requires_grad_(requires_grad=False)
        for layer in layers:
            layer.requires_grad_(requires_grad=True)
        encoder.transformer.norm.requires_grad_(encoder.transformer.pre_norm)

    def trainable_state(self, encoder: SSLEncoder) -> dict[str, Tensor]:
        """Return the tensors of these layers that training changes, under their names in the encoder."""
        return trained_state(encoder)
