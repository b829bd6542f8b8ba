"""vq-wav2vec: convolutions, a quantiser, and causal convolutions over the quantised frames (Baevski et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn

from audiossl.contracts import Count, EncoderOutput
from audiossl.encoders._options import check_options
from audiossl.nn.gumbel_quantiser import GumbelQuantiser
from audiossl.nn.kmeans_quantiser import KMeansQuantiser
from audiossl.nn.masking import valid_frames
from audiossl.nn.vq_convs import CausalAggregator, VQFeatureConvs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class QuantisedFrames(NamedTuple):
    """q: (batch, frame, dim). codes: (batch, frame, group) int64. loss: (batch,), what the quantiser itself learns by; 0 for Gumbel's."""

    q: Tensor
    codes: Tensor
    loss: Tensor


class VQWav2Vec(nn.Module):
    """Features at 100 Hz, a code for each group of each frame, and their causal context. Padding changes nothing.

    layers: the features before they are quantised, and the context of the quantised ones. Nothing is masked, for nothing here sees the future.
    """

    sample_rate = VQFeatureConvs.sample_rate
    stride = VQFeatureConvs.stride
    num_layers = 1

    @dataclass(frozen=True)
    class Config:
        """Defaults: the published training command. quantiser: "gumbel", drawn with noise in training, or "kmeans", the nearest entry.

        groups, entries: of the codebook, which the groups share. context_kernels: of the causal convolutions. start: "random", as published, or "data",
        our variant: see `calibrate`. activation: of all convolutions and of the network that gives the logits. log_compression: features are log(1 + |x|), as in
        wav2vec (Schneider et al., 2019).
        """

        dim: int = 512
        quantiser: Literal["gumbel", "kmeans"] = "gumbel"
        groups: int = 2
        entries: int = 320
        context_kernels: tuple[int, ...] = tuple(range(2, 14))
        start: Literal["random", "data"] = "random"
        activation: Literal["gelu", "relu"] = "gelu"
        log_compression: bool = False

        def __post_init__(self) -> None:
            check_options(self)
            if self.dim % self.groups:
                raise ValueError(f"encoder.dim: {self.dim} is no multiple of the {self.groups} groups")
            if min(self.context_kernels, default=1) < 1:
                raise ValueError(
                    f"encoder.context_kernels: {list(self.context_kernels)} are not all convolutions; give numbers from 1 on"
                )

        @classmethod
        def nano(cls) -> VQWav2Vec.Config:
            """A quarter of the channels: trains on a laptop's processor."""
            return cls(dim=128, entries=64, context_kernels=(2, 3, 4, 5, 6, 7))

        @classmethod
        def tiny(cls) -> VQWav2Vec.Config:
            """The smallest with all parts, for tests."""
            return cls(dim=16, entries=5, context_kernels=(2, 3))

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = VQWav2Vec.Config() if config is None else config
        self.dim = self.feature_dim = config.dim
        self.convs = VQFeatureConvs(config.dim, activation=config.activation, log_compression=config.log_compression)
        self.quantiser: GumbelQuantiser | KMeansQuantiser
        if config.quantiser == "gumbel":
            self.quantiser = GumbelQuantiser(
                config.dim,
                groups=config.groups,
                entries=config.entries,
                code_dim=config.dim,
                shared=True,
                hidden_layers=1,
                activation=config.activation,
            )
        else:
            self.quantiser = KMeansQuantiser(config.dim, groups=config.groups, entries=config.entries, shared=True)
        self.aggregator = CausalAggregator(config.dim, config.context_kernels, activation=config.activation)

    @property
    def frontend(self) -> VQFeatureConvs:
        """Where the waveform comes in; the loop logs its gradient."""
        return self.convs

    @torch.no_grad()
    def calibrate(self, waveforms: Iterable[tuple[Tensor, Tensor]]) -> None:
        """With `start = "data"`, make the codes those of clusters of the data; random ones tell frames of untrained features hardly apart.

        waveforms: pairs as for `forward`. Keeps all their frames at once, so give minutes and not hours.
        """
        if self.config.start == "random":
            return
        frames = []
        for waveform, lengths in waveforms:
            z, counts = self.features(waveform, lengths)
            if isinstance(self.quantiser, KMeansQuantiser):
                z = self.quantiser.normalised(z, counts)
            frames.append(z[valid_frames(counts, z.shape[1])])
        self.quantiser.start_from(torch.cat(frames))

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        return self.convs.num_frames(samples)

    def features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames before they are quantised: (batch, frame, dim), and (batch,) valid frames."""
        z, frames = self.convs(waveform, lengths)
        return z, frames

    def quantise(self, z: Tensor, lengths: Tensor, *, temperature: Tensor | float = 1.0) -> QuantisedFrames:
        """Replace frames by entries of the codebook. z: as `features` gives it. temperature: of Gumbel's noise, which there is in training only."""
        if isinstance(self.quantiser, KMeansQuantiser):
            return QuantisedFrames(*self.quantiser(z, lengths))
        found = self.quantiser(z.flatten(0, 1), temperature)
        q, codes = (part.unflatten(0, z.shape[:2]) for part in (found.q, found.codes))
        return QuantisedFrames(q, codes, q.new_zeros(q.shape[0]))

    def aggregate(self, q: Tensor, lengths: Tensor) -> Tensor:
        """Causal context of quantised frames: (batch, frame, dim)."""
        context: Tensor = self.aggregator(q, lengths)
        return context

    @torch.no_grad()
    def codes(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of a waveform: (batch, frame, group) int64, and (batch,) valid frames. Call it in eval mode."""
        z, frames = self.features(waveform, lengths)
        return self.quantise(z, frames).codes, frames

    def forward(self, waveform: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> EncoderOutput:
        """waveform: (batch, sample) in [-1, 1]; lengths: (batch,), valid samples. num_layers: 0 stops before the quantiser."""
        z, frames = self.features(waveform, lengths)
        if num_layers == 0:
            return EncoderOutput([z], frames)
        return EncoderOutput([z, self.aggregate(self.quantise(z, frames).q, frames)], frames)
