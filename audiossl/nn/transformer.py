"""The Transformer of wav2vec 2.0 and HuBERT: convolutional positions, post-LN (base) or pre-LN (large) blocks, slots for adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.attention import FrameLayout, NoAdapter, SelfAttention
from audiossl.nn.masking import valid_frames
from audiossl.nn.positional import ConvPositions
from audiossl.nn.stacked_positions import StackedPositions

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class TransformerConfig:
    """Size and regularisation; the defaults are wav2vec 2.0 base (Baevski et al., 2020, section 4.2)."""

    num_layers: int = 12
    dim: int = 768
    ffn_dim: int = 3072
    num_heads: int = 12
    """The paper says 8 for base; the models it released have 12."""
    pre_norm: bool = False
    """Norm before each sub-layer and after the last block (large), instead of after each sub-layer (base)."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05
    position_kernel: int = 128
    position_groups: int = 16
    position_depth: int = 1
    """1: one weight-normed convolution (wav2vec 2.0); more: so many, with norms between (data2vec, see `nn.stacked_positions`)."""


class TransformerLayer(nn.Module):
    """Attention and feed-forward network, each with dropout, a residual and a layer norm.

    `attention_adapter` and `ffn_adapter` are applied to the sub-layer's output before the residual is added. relax: see `SelfAttention`.
    """

    def __init__(self, config: TransformerConfig, *, relax: float = 0.0) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = SelfAttention(config.dim, config.num_heads, dropout=config.attention_dropout, relax=relax)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.attention_adapter: nn.Module = NoAdapter()
        self.ffn_adapter: nn.Module = NoAdapter()

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: frames in `layout`. Returns the same shape."""
        return self.parts(x, layout)[0]

    def parts(self, x: Tensor, layout: FrameLayout) -> tuple[Tensor, Tensor]:
        """What `forward` gives and, of the same shape, what the feed-forward network gives, before its dropout: data2vec's targets."""
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), layout)
            given = self._feed_forward(self.ffn_norm(x))
            return x + self._added(given, layout), given
        x = self.attention_norm(x + self._attend(x, layout))
        given = self._feed_forward(x)
        return self.ffn_norm(x + self._added(given, layout)), given

    @property
    def last_norm(self) -> nn.Module:
        """The norm of what a post-LN block gives."""
        return self.ffn_norm

    def _attend(self, x: Tensor, layout: FrameLayout) -> Tensor:
        return self.attention_adapter(self.dropout(self.attention(x, layout)), layout)  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_out(self.activation_dropout(F.gelu(self.ffn_in(x))))  # type: ignore[no-any-return]

    def _added(self, given: Tensor, layout: FrameLayout) -> Tensor:
        return self.ffn_adapter(self.dropout(given), layout)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Frames to the input of the first block and the output of each.

    Linear weights start as N(0, 0.02), biases at 0 (Devlin et al., 2019). packed: whether blocks see only the valid frames, without padding;
    None: on CUDA in 16-bit arithmetic, where flash attention needs it. block: makes one of the `layers` from `config`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        packed: bool | None = None,
        block: Callable[[Any], nn.Module] = TransformerLayer,
    ) -> None:
        super().__init__()
        if config.num_layers < 1:
            raise ValueError(f"num_layers {config.num_layers} leaves no Transformer; give at least 1")
        if not 0 <= config.layer_drop <= 1:
            raise ValueError(f"layer_drop {config.layer_drop} is not between 0 and 1; correct it")
        self.pre_norm = config.pre_norm
        self.layer_drop = config.layer_drop
        self.packed = packed
        shape = {"kernel": config.position_kernel, "groups": config.position_groups}
        self.positions: ConvPositions | StackedPositions = (
            ConvPositions(config.dim, **shape)
            if config.position_depth == 1
            else StackedPositions(config.dim, depth=config.position_depth, **shape)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(block(config) for _ in range(config.num_layers))
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> list[Tensor]:
        """x: (batch, frame, dim); lengths: (batch,) valid frames. Returns `num_layers + 1` tensors like x, undefined at padding.

        num_layers: stop after so many blocks. The final norm of pre-LN models is part of the last block's output alone.
        """
        count = self._checked(num_layers)
        x, layout = self.enter(x, lengths)
        return [layout.leave(output) for output in self._run(x, layout, count)]

    def visible(self, x: Tensor, lengths: Tensor, visible: Tensor) -> Tensor:
        """Output of the last block where blocks see some frames alone, and positions are those of all; see `enter`.

        Returns (batch, frame, dim), undefined at other frames.
        """
        x, layout = self.enter(x, lengths, visible)
        return layout.leave(self._run(x, layout, len(self.layers))[-1])

    def feed_forward_outputs(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """What the feed-forward network of each block gives, before dropout, residual and norm: tensors like x, undefined at padding.

        Of dropped blocks too. `last_norm` has no part in any.
        """
        x, layout = self.enter(x, lengths)
        kept, outputs = self._kept_layers(x.device), []
        for i, layer in enumerate(self.layers):
            y, given = layer.parts(x, layout)  # type: ignore[operator]
            x = _unless_dropped(y, x, layer, None if kept is None else kept[i])
            outputs.append(layout.leave(given))
        return outputs

    @property
    def last_norm(self) -> nn.Module:
        """The norm that the output of the last block goes through, and nothing else."""
        return self.norm if self.pre_norm else self.layers[-1].last_norm  # type: ignore[return-value]

    def enter(self, x: Tensor, lengths: Tensor, visible: Tensor | None = None) -> tuple[Tensor, FrameLayout]:
        """Add positions and make the input of the first block, in the layout that comes with it.

        x: (batch, frame, dim); lengths: (batch,) valid frames. visible: (batch, frame) bool, those of the valid frames that the blocks will
        see; the others are zero to the positions and then left out.
        """
        packed = self._packs(x)
        layout = (
            FrameLayout.of(lengths, x.shape[1], packed=packed)
            if visible is None
            else FrameLayout.of_visible(visible, packed=packed)
        )
        valid = None
        if layout.key_mask is not None or layout.index is not None:
            valid = valid_frames(lengths, x.shape[1])
            x = x.masked_fill(~(valid if visible is None else visible).unsqueeze(-1), 0.0)
        positions = self.positions
        x = x + (positions(x) if isinstance(positions, ConvPositions) else positions(x, valid))
        x = layout.enter(x)
        return self.dropout(x if self.pre_norm else self.norm(x)), layout

    def _run(self, x: Tensor, layout: FrameLayout, count: int) -> list[Tensor]:
        """Run the first `count` blocks; their input comes first."""
        outputs = [x]
        kept = self._kept_layers(x.device)
        for i, layer in enumerate(self.layers[:count]):
            x = _unless_dropped(layer(x, layout), x, layer, None if kept is None else kept[i])
            outputs.append(x)
        if self.pre_norm and count == len(self.layers):
            outputs[-1] = self.norm(x)
        return outputs

    def _checked(self, num_layers: int | None) -> int:
        count = len(self.layers) if num_layers is None else num_layers
        if not 0 <= count <= len(self.layers):
            raise ValueError(f"num_layers {count} is not a layer of this encoder; give 0 to {len(self.layers)}")
        return count

    def _packs(self, x: Tensor) -> bool:
        if self.packed is not None or not x.is_cuda:
            return bool(self.packed)
        return torch.is_autocast_enabled("cuda") or x.dtype in {torch.float16, torch.bfloat16}

    def _kept_layers(self, device: torch.device) -> Tensor | None:
        """LayerDrop (Fan et al., 2020): (layer,) bool, drawn from torch's generator of the device.

        A dropped layer is computed and not used: its gradients are zero, not missing, so that distributed processes that drop
        different layers still agree on what they exchange, and nothing waits for the device to say which. A block in eval mode is never dropped: it is
        a frozen one, see `nn.frozen`.
        """
        if not self.training or self.layer_drop == 0:
            return None
        return torch.rand(len(self.layers), device=device) >= self.layer_drop


def _unless_dropped(y: Tensor, x: Tensor, layer: nn.Module, kept: Tensor | None) -> Tensor:
    """A block's output, or its input x where the block is dropped. kept: scalar bool, None where none is; see `Transformer._kept_layers`."""
    return y if kept is None or not layer.training else torch.where(kept, y, x)
