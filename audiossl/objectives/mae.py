"""Masked autoencoder: reconstruct the log-mel patches of masked frames from the visible ones (He et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses.reconstruction import reconstruction
from audiossl.metrics.sdsc import sdsc
from audiossl.nn.mask_decoder import MaskDecoder
from audiossl.nn.masking import valid_frames
from audiossl.nn.mel_patches import mel_patches, patch_frames
from audiossl.nn.spread import spread
from audiossl.nn.transformer import TransformerConfig
from audiossl.objectives._mask_input import MaskInputConfig, MaskInputObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


class MAE(MaskInputObjective):
    """The encoder's blocks see the visible frames alone; a decoder, thrown away later, fills in the others.

    A patch is the log-mel frames of one encoder frame. Positions hear masked frames as zeros, and `mask_emb` is not used.
    """

    @dataclass(frozen=True)
    class Config(MaskInputConfig):
        """Share of masked frames, decoder and normalised patches of He et al.; patches in time alone are our variant.

        He et al.'s patches do not overlap. Here visible neighbours of a masked frame have heard its target through the frontend's convolutions, unless
        mask_input puts zeros, the mean, in its filterbank frames (see `MaskInputConfig`).
        patch_norm: each target patch gets zero mean and unit variance. mse_weight, l1_weight, sdsc_weight: of the losses, added up; hybrids have
        several. sdsc_sharpness, sdsc_smooth: see `losses.sdsc`; 10 is our choice, and 0 the plain minimum. position_noise: variance of FlexPredict (see
        `nn.mask_decoder`), 0 is none. decoder_*: its size; its network is 4 times as wide.
        """

        mask_prob: float = 0.75
        num_mels: int = 80
        patch_norm: bool = True
        mse_weight: float = 1.0
        l1_weight: float = 0.0
        sdsc_weight: float = 0.0
        sdsc_sharpness: float = 10.0
        sdsc_smooth: float = 0.0
        position_noise: float = 0.0
        decoder_layers: int = 8
        decoder_dim: int = 512
        decoder_heads: int = 16

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("num_mels", "sdsc_sharpness", "decoder_layers", "decoder_dim", "decoder_heads"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            for name in ("mse_weight", "l1_weight", "sdsc_weight", "sdsc_smooth", "position_noise"):
                if getattr(self, name) < 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is negative")
            if not self.mse_weight + self.l1_weight + self.sdsc_weight:
                raise ValueError("objective: mse_weight, l1_weight and sdsc_weight are all 0; give one of them")
            if self.decoder_dim % 32:
                raise ValueError(f"objective.decoder_dim: {self.decoder_dim} is not a multiple of 32; give one")

        @classmethod
        def tiny(cls) -> MAE.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.5,
                num_mels=20,
                masking="self_guided",
                l1_weight=0.5,
                sdsc_weight=0.5,
                position_noise=0.25,
                decoder_layers=1,
                decoder_dim=32,
                decoder_heads=4,
            )

    headline: ClassVar[tuple[str, ...]] = ("explained", "prediction_std")

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        size = TransformerConfig(
            num_layers=config.decoder_layers,
            dim=config.decoder_dim,
            ffn_dim=4 * config.decoder_dim,
            num_heads=config.decoder_heads,
            pre_norm=True,
            dropout=0.0,
            attention_dropout=0.0,
            layer_drop=0.0,
        )
        self.decoder = MaskDecoder(encoder.dim, size, position_noise=config.position_noise)
        stacked = patch_frames(encoder.stride, encoder.sample_rate)
        self.head = nn.Linear(config.decoder_dim, stacked * config.num_mels)
        encoder.mask_emb.requires_grad_(False)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames and count these (section 3); the loss of a frame is a mean over its patch."""
        local, masked, places = self.features(batch)
        x = self.encoder.dropout_input(self.encoder.projection(local.z))
        visible = valid_frames(local.lengths, x.shape[1]) & ~masked
        top = self.encoder.transformer.visible(x, local.lengths, visible)
        decoded = self.decoder(top, masked, local.lengths).flatten(0, 1)[places]
        estimate = self.head(decoded).float()  # (masked frame, patch)
        target = self._targets(batch, local)[places]
        config = self.config
        loss = reconstruction(
            estimate,
            target,
            mse_weight=config.mse_weight,
            l1_weight=config.l1_weight,
            sdsc_weight=config.sdsc_weight,
            sdsc_sharpness=config.sdsc_sharpness,
            sdsc_smooth=config.sdsc_smooth,
        ).sum()
        count = torch.full((), len(places), dtype=torch.float32, device=loss.device)
        metrics = spread(top[visible]) | self.mask_metrics(masked, local)
        if not self.training:
            alike = sdsc(estimate.detach().cpu().numpy(), target.cpu().numpy()) if len(places) else 0.0
            metrics["sdsc"] = (alike * count, count)
        return StepOutput(loss, count, metrics | _health(estimate.detach(), target, count))

    def _targets(self, batch: Batch, local: LocalFeatures) -> Tensor:
        """Patches of all frames: (batch * frame, patch)."""
        patches = mel_patches(
            batch["waveform"],
            batch["waveform_lengths"],
            num_frames=local.z.shape[1],
            stride=self.encoder.stride,
            num_mels=self.config.num_mels,
            sample_rate=self.encoder.sample_rate,
        ).flatten(0, 1)
        if not self.config.patch_norm:
            return patches
        centred = patches - patches.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-6)


def _health(estimate: Tensor, target: Tensor, count: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """explained: 1 - squared error / squared size of the targets; 0 is what saying 0 explains. *_std: over frames, mean over the patch."""
    if not len(target):
        return dict.fromkeys(("explained", "mse", "target_std", "prediction_std"), (count, count))
    mse = (estimate - target).square().mean()
    values = {"explained": 1 - mse / target.square().mean().clamp(min=1e-6), "mse": mse}
    for name, frames in (("target", target), ("prediction", estimate)):
        values[f"{name}_std"] = frames.var(dim=0, correction=0).sqrt().mean()
    return {name: (value * count, count) for name, value in values.items()}
