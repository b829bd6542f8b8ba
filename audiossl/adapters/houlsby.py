"""Bottleneck adapters in a frozen encoder: two small networks per layer learn, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from audiossl.nn.attention import NoAdapter
from audiossl.nn.conv_frontend import convolve_frames

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.attention import FrameLayout
    from audiossl.nn.ssl_encoder import SSLEncoder

_SLOTS = ("attention_adapter", "ffn_adapter")


class Houlsby:
    """Adapters after the attention and after the feed-forward part of each layer (Houlsby et al., 2019; Thomas et al., 2022).

    At a width of 768 they have 788,480 parameters per layer: 9.1 % of a base encoder with adapters in all 12 layers. The rest of the
    encoder is frozen. At step 0 they change nothing.
    """

    @dataclass(frozen=True)
    class Config:
        """Thomas et al. (2022): bottleneck 256, all layers; the top 6 of 12 did best in their ablation.

        bottleneck: units between the two maps. num_top_layers: how many layers, counted from the output, get adapters; 0 is all of
        them. activation: the paper's is not stated; ours is the encoder's own. train_norms: the layer norms of these layers learn
        too, as in Houlsby et al. (2019, section 2.1); Thomas et al. count none. kernel: frames that a depthwise convolution between the
        maps spans; 1 is none, as published. More is our variant, after the separable convolutions of ConvAdapter (Li et al., 2023): the frozen attention
        gathers what predicts units, and words want other frames.
        """

        bottleneck: int = 256
        num_top_layers: int = 0
        activation: Literal["gelu", "relu"] = "gelu"
        train_norms: bool = False
        kernel: int = 1

        def __post_init__(self) -> None:
            if self.bottleneck < 1 or self.num_top_layers < 0:
                raise ValueError(
                    f"adapter: bottleneck {self.bottleneck} and num_top_layers {self.num_top_layers} must be at least 1 and 0"
                )
            if self.kernel < 1 or self.kernel % 2 == 0:
                raise ValueError(f"adapter.kernel: {self.kernel} has no middle frame; give an odd number")

        @classmethod
        def tiny(cls) -> Houlsby.Config:
            """Return the smallest one, for tests."""
            return cls(bottleneck=4, num_top_layers=1, train_norms=True, kernel=3)

    def __init__(self, config: Config) -> None:
        self.config = config

    def insert(self, encoder: SSLEncoder) -> None:
        """Freeze the encoder and fill the slots of its top layers; ValueError if it has too few layers or adapters already."""
        layers = encoder.transformer.layers
        if self.config.num_top_layers > len(layers):
            raise ValueError(
                f"adapter.num_top_layers: {self.config.num_top_layers} is more than the encoder's {len(layers)} layers; lower it"
            )
        encoder.requires_grad_(requires_grad=False)
        for layer in layers[-(self.config.num_top_layers or len(layers)) :]:
            for slot in _SLOTS:
                if not isinstance(getattr(layer, slot), NoAdapter):
                    raise ValueError(
                        "adapter: the encoder has adapters already; start from the one that they were put into"
                    )
                adapter = Bottleneck(encoder.dim, self.config)
                setattr(layer, slot, adapter.to(encoder.mask_emb.device))
            if self.config.train_norms:
                for norm in ("attention_norm", "ffn_norm"):
                    layer.get_submodule(norm).requires_grad_(requires_grad=True)

    def trainable_state(self, encoder: SSLEncoder) -> dict[str, Tensor]:
        """Return the tensors that learn, adapters and norms, under their names in the encoder."""
        return {name: tensor.detach() for name, tensor in encoder.named_parameters() if tensor.requires_grad}


class Bottleneck(nn.Module):
    """x + up(activation(conv(down(LayerNorm(x))))), with `up` 0 at the start: the identity.

    The LayerNorm has no scale and shift of its own: `down` can learn both. The convolution is over time, each unit by itself, and starts as the identity
    too.
    """

    def __init__(self, dim: int, config: Houlsby.Config) -> None:
        super().__init__()
        units = config.bottleneck
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.down = nn.Linear(dim, units)
        self.conv: nn.Conv1d | None = None
        if config.kernel > 1:
            self.conv = nn.Conv1d(units, units, config.kernel, padding=config.kernel // 2, groups=units, bias=False)
            nn.init.dirac_(self.conv.weight, groups=units)
        self.up = nn.Linear(units, dim)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        # With `up` at 0 the start is the identity whatever `down` is, so that `down` may give its units inputs of variance 1.
        nn.init.normal_(self.down.weight, std=dim**-0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: frames in `layout`."""
        units = self.down(self.norm(x))
        if self.conv is not None:
            units = convolve_frames(units, self.conv, layout)
        y: Tensor = x + self.up(self.activation(units))
        return y
