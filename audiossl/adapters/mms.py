"""Adapters of MMS: one small network behind each block of a frozen encoder, for one language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from audiossl.adapters._top import top_layers, trained_state

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


class MMS:
    """x + up(relu(down(LayerNorm(x)))) of the output x of each block, its residual included (Pratap et al., 2023).

    At a width of 1280 and 48 layers they have 2.15 million parameters, 0.2 % of the encoder. Each language is an experiment of its own over the
    same encoder; `interop.adapter_bank` holds many at once. At step 0 they change nothing, which is our variant: published ones start random.
    """

    @dataclass(frozen=True)
    class Config:
        """bottleneck: units between the two maps; 16 in the released checkpoints, which is the paper's 0.2 %; the published code's own default is 64."""

        bottleneck: int = 16

        def __post_init__(self) -> None:
            if self.bottleneck < 1:
                raise ValueError(f"adapter.bottleneck: {self.bottleneck} units pass nothing on; give at least 1")

        @classmethod
        def tiny(cls) -> MMS.Config:
            """Return the smallest one, for tests."""
            return cls(bottleneck=4)

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: SSLEncoder) -> None:
        """Freeze the encoder and put an adapter behind each block; ValueError if it has some already."""
        layers = top_layers(encoder, 0)
        if any(hasattr(layer, "block_adapter") for layer in layers):
            raise ValueError("adapter: the encoder has adapters already; start from the one that they were put into")
        encoder.requires_grad_(requires_grad=False)
        for layer in layers:
            adapter = BlockAdapter(encoder.dim, self.config.bottleneck)
            layer.add_module("block_adapter", adapter.to(encoder.mask_emb.device))
            # The slots of a layer lie before its residual; a hook leaves the names of the layer's own weights as they are.
            layer.register_forward_hook(_adapt)

    def trainable_state(self, encoder: SSLEncoder) -> dict[str, Tensor]:
        """Return the tensors of the adapters, under their names in the encoder."""
        return trained_state(encoder)


class BlockAdapter(nn.Module):
    """x + up(relu(down(LayerNorm(x)))), with `up` 0 at the start: the identity."""

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, bottleneck)
        self.up = nn.Linear(bottleneck, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim)."""
        y: Tensor = x + self.up(self.down(self.norm(x)).relu())
        return y


def _adapt(layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    adapted: Tensor = layer.get_submodule("block_adapter")(output)
    return adapted
