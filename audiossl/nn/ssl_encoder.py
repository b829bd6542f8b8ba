"""The base of all encoders: a frontend, a projection, masking and a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from audiossl.contracts import Count, EncoderOutput
from audiossl.nn.masking import valid_frames
from audiossl.nn.position_noise import flexible_tokens
from audiossl.nn.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class EncoderConfig(TransformerConfig):
    """What all encoders have in common beside their Transformer; the defaults are wav2vec 2.0 base."""

    feature_grad_mult: float = 0.1
    """The frontend's gradients are multiplied by this; 0 freezes it, and its parameters do not train."""
    dropout_input: float = 0.1
    """Of the projected features, before masking."""
    dropout_features: float = 0.1
    """Of `SSLEncoder.dropout_features`, for objectives whose targets are the features themselves."""
    normalise_waveform: bool = False
    """Zero mean and unit variance over the valid samples of each utterance (models whose frontend norm is "layer")."""


class LocalFeatures(NamedTuple):
    """Frontend output. z: (batch, frame, feature_dim) after its layer norm; lengths: (batch,); penalty: scalar, see `local_features`."""

    z: Tensor
    lengths: Tensor
    penalty: Tensor


class Frontend(Protocol):
    """Waveform to features; always an `nn.Module`."""

    feature_dim: int
    stride: int
    sample_rate: int

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        ...

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, sample) to (batch, frame, feature_dim), with the valid lengths of both."""
        ...


class SSLEncoder(nn.Module):
    """Waveform to frames in context (Baevski et al., 2020, section 2). Padding changes nothing.

    dim: of the output; feature_dim: of the frontend's; stride: samples per frame; sample_rate: Hz. transformer: the blocks, where they are
    not the plain ones of `config`.
    """

    def __init__(self, frontend: Frontend, config: EncoderConfig, transformer: Transformer | None = None) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.num_layers = config.num_layers
        self.feature_dim = frontend.feature_dim
        self.stride = frontend.stride
        self.sample_rate = frontend.sample_rate
        self.feature_grad_mult = config.feature_grad_mult
        self.normalise_waveform = config.normalise_waveform
        self.frontend = frontend
        if not config.feature_grad_mult:  # processes that train together would wait for its gradients
            self.get_submodule("frontend").requires_grad_(requires_grad=False)
        self.feature_norm = nn.LayerNorm(self.feature_dim)
        self.projection = nn.Linear(self.feature_dim, self.dim)
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.dropout_features = nn.Dropout(config.dropout_features)
        self.mask_emb = nn.Parameter(torch.rand(self.dim))
        self.transformer = Transformer(config) if transformer is None else transformer

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        return self.frontend.num_frames(samples)

    def local_features(
        self, waveform: Tensor, lengths: Tensor, *, hidden: Tensor | None = None, noise_std: float = 0.0
    ) -> LocalFeatures:
        """Features of each frame by itself. waveform: (batch, sample) in [-1, 1]; lengths: (batch,), valid samples.

        hidden, noise_std: frames whose inputs become noise, of a filterbank in front alone; see `FbankFrontend.forward`.
        The penalty is the mean square of the frontend's output, before the layer norm, over valid frames, in float32;
        its gradient too is multiplied by `feature_grad_mult`.
        """
        if self.normalise_waveform:
            waveform = normalised(waveform, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            options: dict[str, Any] = {} if hidden is None else {"hidden": hidden, "noise_std": noise_std}
            z, frames = self.frontend(waveform, lengths, **options)
        if self.feature_grad_mult != 1:
            z = _ScaleGradient.apply(z, self.feature_grad_mult)  # type: ignore[no-untyped-call]
        valid = valid_frames(frames, z.shape[1])
        squares = z.float().square().mean(-1).masked_fill(~valid, 0.0)
        return LocalFeatures(self.feature_norm(z), frames, squares.sum() / valid.sum().clamp(min=1))

    def contextualise(
        self,
        z: Tensor,
        lengths: Tensor,
        *,
        masked: Tensor | None = None,
        channels_masked: Tensor | None = None,
        num_layers: int | None = None,
        position_noise: float = 0.0,
    ) -> EncoderOutput:
        """Frames in context. z: (batch, frame, feature_dim), as `local_features` gives it; lengths: (batch,), valid frames.

        masked: (batch, frame) bool, True = replaced by `mask_emb`. channels_masked: (batch, dim) bool, True = then 0 in all frames of the
        projection, masked ones too. num_layers: stop after so many blocks. position_noise: variance of what masked frames get beside `mask_emb`, through
        the projection, see `flexible_tokens`; their positions, which are convolutions here, hear it.
        """
        x = self.masked_input(z, masked=masked, channels_masked=channels_masked, position_noise=position_noise)
        return EncoderOutput(layers=self.transformer(x, lengths, num_layers=num_layers), lengths=lengths)

    def masked_input(
        self,
        z: Tensor,
        *,
        masked: Tensor | None = None,
        channels_masked: Tensor | None = None,
        position_noise: float = 0.0,
    ) -> Tensor:
        """Projected frames with their masks, what the Transformer is given: (batch, frame, dim); see `contextualise`."""
        x: Tensor = self.dropout_input(self.projection(z))
        if masked is not None:
            if masked.shape != z.shape[:2]:
                raise ValueError(
                    f"masked of shape {tuple(masked.shape)}: z has {tuple(z.shape[:2])} frames; mask those"
                )
            token: Tensor = self.mask_emb
            if position_noise:
                token = flexible_tokens(token, self.projection.weight, z, position_noise)
            x = torch.where(masked.unsqueeze(-1), token, x)
        if channels_masked is not None:
            x = x.masked_fill(channels_masked.unsqueeze(1), 0.0)
        return x

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor,
        *,
        masked: Tensor | None = None,
        channels_masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Do both; see `local_features` and `contextualise`."""
        z, frames, _ = self.local_features(waveform, lengths)
        return self.contextualise(z, frames, masked=masked, channels_masked=channels_masked, num_layers=num_layers)


def normalised(waveform: Tensor, lengths: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the valid samples of each utterance; zero at padding. eps is added to the variance."""
    valid = valid_frames(lengths, waveform.shape[1])
    count = lengths.clamp(min=1).unsqueeze(1)
    waveform = waveform.float().masked_fill(~valid, 0.0)
    centred = (waveform - waveform.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + eps)


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
