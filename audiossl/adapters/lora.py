"""LoRA: linear maps of a frozen encoder get low-rank updates that learn, and that can be folded into them afterwards.

Written by hand, for peft imports transformers and renames the weights that it wraps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from audiossl.adapters._top import top_layers, trained_state

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder

Target = Literal["query", "key", "value", "out", "ffn_in", "ffn_out"]

_MAPS: dict[str, tuple[Target, ...]] = {
    "attention.qkv": ("query", "key", "value"),
    "attention.out": ("out",),
    "ffn_in": ("ffn_in",),
    "ffn_out": ("ffn_out",),
    # the two networks of a Conformer block
    "first_ffn.into": ("ffn_in",),
    "first_ffn.out": ("ffn_out",),
    "ffn.into": ("ffn_in",),
    "ffn.out": ("ffn_out",),
}
"""Where in a layer the linear maps are, and what the rows of each are for, in equal shares."""


class LoRA:
    """W + alpha / rank B A in place of W (Hu et al., 2022, eq. 3): A and B learn. At step 0 they change nothing.

    By default they have 24,576 parameters per layer of width 768, 0.3 % of a base encoder. The names of the encoder's own weights stay.
    """

    @dataclass(frozen=True)
    class Config:
        """Hu et al. (2022), table 9, RoBERTa base: rank 8, alpha 8, on query and value. The paper has nothing on speech.

        targets: which maps, of `query`, `key`, `value`, `out` (of the attention), `ffn_in`, `ffn_out`; each has an A and a B of its own. alpha: of
        the scale alpha / rank. dropout: of the input of A; none is our choice. num_top_layers: how many layers, counted from the output; 0 is all.
        """

        targets: tuple[Target, ...] = ("query", "value")
        rank: int = 8
        alpha: float = 8.0
        dropout: float = 0.0
        num_top_layers: int = 0

        def __post_init__(self) -> None:
            if not self.targets:
                raise ValueError('adapter.targets: is empty, so nothing would train; give ["query", "value"], say')
            if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
                raise ValueError(
                    f"adapter: rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}; "
                    "rank must be at least 1, alpha above 0 and dropout in [0, 1)"
                )

        @classmethod
        def tiny(cls) -> LoRA.Config:
            """Return the smallest one with all parts, for tests."""
            return cls(
                targets=("query", "key", "value", "out", "ffn_in", "ffn_out"), rank=2, dropout=0.1, num_top_layers=1
            )

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: SSLEncoder) -> None:
        """Freeze the encoder and give the maps of its top layers updates; ValueError if it has too few layers, or updates already."""
        if any(isinstance(module, LoRALinear) for module in encoder.modules()):
            raise ValueError(
                "adapter: the encoder has LoRA updates already; start from the one that they were put into"
            )
        layers = top_layers(encoder, self.config.num_top_layers)
        encoder.requires_grad_(requires_grad=False)
        for layer in layers:
            parts = dict(layer.named_modules())
            for path, shares in _MAPS.items():
                base = parts.get(path)
                if isinstance(base, nn.Linear) and not set(shares).isdisjoint(self.config.targets):
                    parent, _, name = path.rpartition(".")
                    setattr(layer.get_submodule(parent), name, LoRALinear(base, shares, self.config))

    def trainable_state(self, encoder: SSLEncoder) -> dict[str, Tensor]:
        """Return A and B of each update, under their names in the encoder."""
        return trained_state(encoder)


class LoRALinear(nn.Linear):
    """A linear map with the weight and bias of `base` itself, and an update of each of its shares of rows that is a target."""

    def __init__(self, base: nn.Linear, shares: tuple[Target, ...], config: LoRA.Config) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.shares = shares
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        rows = base.out_features // len(shares)
        updates: dict[str, nn.Module] = {
            name: _Update(base.in_features, rows, config.rank) for name in shares if name in config.targets
        }
        self.lora_adapter = nn.ModuleDict(updates).to(base.weight.device)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features)."""
        shares = list(super().forward(x).chunk(len(self.shares), dim=-1))
        x = self.dropout(x)
        for i, name in enumerate(self.shares):
            if name in self.lora_adapter:
                shares[i] = shares[i] + self.scale * self.lora_adapter[name](x)
        return torch.cat(shares, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain linear map that does the same, with a weight of its own."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        weight = self.weight.clone()
        for share, name in zip(weight.chunk(len(self.shares)), self.shares, strict=True):
            if name in self.lora_adapter:
                update = self.lora_adapter[name]
                share += self.scale * (update.get_parameter("up") @ update.get_parameter("down"))
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear


class _Update(nn.Module):
    """B A. down, A: (rank, in_features); up, B: (out_features, rank), 0 at the start.

    The paper draws A from a Gaussian that it does not state; this is what its published code does: uniform within 1 / sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features)."""
        return F.linear(F.linear(x, self.down), self.up)


def merge(encoder: nn.Module) -> None:
    """Fold all updates of an encoder into its weights (Hu et al., 2022, section 4.1); it then has the modules that it had before LoRA.

    Weights that other encoders share stay as they are. ValueError where there is no update.
    """
    found = [
        (parent, name, child)
        for parent in encoder.modules()
        for name, child in parent.named_children()
        if isinstance(child, LoRALinear)
    ]
    if not found:
        raise ValueError(
            "adapter: the encoder has no LoRA updates to merge; give one that was trained with adapter.name lora"
        )
    for parent, name, child in found:
        setattr(parent, name, child.merged())
