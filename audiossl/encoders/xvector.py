"""The x-vector network (Snyder et al., 2018): a time-delay network with statistics pooling."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from torch import nn

from audiossl.contracts import EncoderOutput
from audiossl.encoders._options import check_options
from audiossl.nn.ecapa_blocks import TimeConv
from audiossl.nn.speaker_encoder import SpeakerNetwork, validity
from audiossl.nn.speaker_frontend import FrontendConfig
from audiossl.nn.statistics_pooling import StatisticsPooling

if TYPE_CHECKING:
    from torch import Tensor

_CONTEXT = ((5, 1), (3, 2), (3, 3), (1, 1))
"""Kernel and dilation of `frame1` to `frame4`."""


class XVector(SpeakerNetwork):
    """Frames at 100 Hz: `frame1` to `frame4` of table 1 of the paper. The embedding is the affine part of `segment6`.

    4.2 million parameters, counted as in the paper: without `segment7` and the softmax, which belong to a classifier.
    Differs from the paper: the mean of the features is that of the utterance and not of a window of 3 s; convolutions are given zeros
    beyond the ends, where Kaldi repeats the first and the last frame; there is no speech activity detector.
    """

    @dataclass(frozen=True)
    class Config(FrontendConfig):
        """Defaults: the paper's, 24 filters."""

        features: Literal["mel_hamming", "mel_hann", "fbank"] = "fbank"
        num_mels: int = 24
        channels: int = 512
        pooled_dim: int = 1500
        """Features of `frame5`, before pooling."""
        embedding_dim: int = 512

        def __post_init__(self) -> None:
            check_options(self)

        @classmethod
        def tiny(cls) -> XVector.Config:
            """The smallest with all parts, for tests."""
            return cls(num_mels=10, channels=16, pooled_dim=12, embedding_dim=8)

    def __init__(self, config: Config | None = None) -> None:
        config = XVector.Config() if config is None else config
        super().__init__(config, _TimeDelayBody(config))


class _TimeDelayBody(nn.Module):
    """`frame1` to `segment6`, each of the former convolution, ReLU and batch norm."""

    def __init__(self, config: XVector.Config) -> None:
        super().__init__()
        self.dim = config.channels
        self.num_layers = len(_CONTEXT) - 1
        self.embedding_dim = config.embedding_dim
        self.time_stride = 1
        widths = [config.num_mels, *[config.channels] * len(_CONTEXT)]
        self.convs = nn.ModuleList(
            TimeConv(before, width, *context)
            for (before, width), context in zip(pairwise(widths), _CONTEXT, strict=True)
        )
        self.leave = TimeConv(config.channels, config.pooled_dim)
        self.pooling = StatisticsPooling(config.pooled_dim)
        self.embedding = nn.Linear(self.pooling.out_dim, config.embedding_dim)

    def frame_layers(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Frames of every convolution. features: (batch, frame, feature); lengths: (batch,) valid frames."""
        valid = validity(lengths, features.shape[1])
        if valid is not None:
            valid = valid.unsqueeze(1)
        layers, x = [], features.transpose(1, 2)
        for conv in self.convs:
            x = conv(x, valid)
            layers.append(x.transpose(1, 2))
        return EncoderOutput(layers, lengths)

    def pool(self, output: EncoderOutput) -> Tensor:
        frames = self.leave(output.layers[-1].transpose(1, 2), None).transpose(1, 2)
        embedding: Tensor = self.embedding(self.pooling(frames, output.lengths))
        return embedding
