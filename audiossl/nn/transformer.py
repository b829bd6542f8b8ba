"""The Transformer of wav2vec 2.0 and HuBERT: convolutional positions, post-LN (base) or pre-LN (large) blocks, slots for adapters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiossl.nn.attention import FrameLayout, SelfAttention
from audiossl.nn.masking import valid_frames
from audiossl.nn.positional import ConvPositions


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


class TransformerLayer(nn.Module):
    """Attention and feed-forward network, each with dropout, a residual and a layer norm.

    `attention_adapter` and `ffn_adapter` are applied to the sub-layer's output before the residual is added.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = SelfAttention(config.dim, config.num_heads, dropout=config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.attention_adapter: nn.Module = nn.Identity()
        self.ffn_adapter: nn.Module = nn.Identity()

    def forward(self, x: Tensor, layout: FrameLayout) -> Tensor:
        """x: frames in `layout`. Returns the same shape."""
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), layout)
            return x + self._feed_forward(self.ffn_norm(x))
        x = self.attention_norm(x + self._attend(x, layout))
        return self.ffn_norm(x + self._feed_forward(x))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, layout: FrameLayout) -> Tensor:
        return self.attention_adapter(self.dropout(self.attention(x, layout)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.activation_dropout(F.gelu(self.ffn_in(x)))
        return self.ffn_adapter(self.dropout(self.ffn_out(hidden)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Frames to the input of the first block and the output of each.

    Linear weights start as N(0, 0.02), biases at 0 (Devlin et al., 2019). packed: whether blocks see only the valid frames, without padding;
    None: on CUDA in 16-bit arithmetic, where flash attention needs it.
    """

    def __init__(self, config: TransformerConfig, *, packed: bool | None = None) -> None:
        super().__init__()
        if config.num_layers < 1:
            raise ValueError(f"num_layers {config.num_layers} leaves no Transformer; give at least 1")
        self.pre_norm = config.pre_norm
        self.layer_drop = config.layer_drop
        self.packed = packed
        self.positions = ConvPositions(config.dim, kernel=config.position_kernel, groups=config.position_groups)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> list[Tensor]:
        """x: (batch, frame, dim); lengths: (batch,) valid frames. Returns `num_layers + 1` tensors like x, undefined at padding.

        num_layers: stop after so many blocks. The final norm of pre-LN models is part of the last block's output alone.
        """
        count = self._checked(num_layers)
        layout = FrameLayout.of(lengths, x.shape[1], packed=self._packs(x))
        if layout.key_mask is not None or layout.index is not None:
            x = x.masked_fill(~valid_frames(lengths, x.shape[1]).unsqueeze(-1), 0.0)
        x = x + self.positions(x)
        x = layout.enter(x if self.pre_norm else self.norm(x))
        x = self.dropout(x)
        outputs = [x]
        kept = self._kept_layers(x.device)
        for i, layer in enumerate(self.layers[:count]):
            y = layer(x, layout)
            x = y if kept is None else torch.where(kept[i], y, x)
            outputs.append(x)
        if self.pre_norm and count == len(self.layers):
            outputs[-1] = self.norm(x)
        return [layout.leave(output) for output in outputs]

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
        different layers still agree on what they exchange, and nothing waits for the device to say which.
        """
        if not self.training or self.layer_drop == 0:
            return None
        return torch.rand(len(self.layers), device=device) >= self.layer_drop
