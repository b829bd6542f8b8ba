"""The decoder of a masked autoencoder: encoded frames and mask tokens to all frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiossl.nn.position_noise import flexible_tokens
from audiossl.nn.transformer import Transformer, TransformerConfig


class MaskDecoder(nn.Module):
    """A small Transformer over visible frames and, between them, copies of one learnt token (He et al., 2022, section 3).

    dim: of the encoded frames. position_noise: variance sigma of FlexPredict; 0 is the plain decoder, bit for bit.
    """

    def __init__(self, dim: int, config: TransformerConfig, *, position_noise: float = 0.0) -> None:
        super().__init__()
        self.position_noise = position_noise
        self.embed = nn.Linear(dim, config.dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(config.dim))
        self.transformer = Transformer(config)

    def forward(self, encoded: Tensor, masked: Tensor, lengths: Tensor) -> Tensor:
        """Decode all frames: (batch, frame, config.dim), undefined at padding.

        encoded: (batch, frame, dim), anything at masked frames. masked: (batch, frame) bool. lengths: (batch,).

        With A the embedding's weight and psi_j the sinusoids of frame j, a visible frame s_i becomes A s_i + psi_i, and a masked one
        m + A n_j + psi_j with n_j ~ N(0, sigma I) (Bar et al., 2024, FlexPredict): the decoder is not told exactly where a masked frame lies, and A
        cannot shrink to silence the noise, for the visible frames go through it too. Without noise in evaluation.
        """
        token: Tensor = self.mask_token
        if self.position_noise and self.training:
            token = flexible_tokens(token, self.embed.weight, encoded, self.position_noise)
        x = torch.where(masked.unsqueeze(-1), token, self.embed(encoded))
        x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        layers: list[Tensor] = self.transformer(x, lengths)
        return layers[-1]


def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Sines, then cosines, of frame j at wavelengths from 2 pi to 10000 times that (Vaswani et al., 2017, section 3.5): (length, dim)."""
    half = dim // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=device) / half)
    angles = torch.arange(length, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
