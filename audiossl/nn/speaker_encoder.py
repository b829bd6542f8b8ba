"""The base of encoders that hear a spectrogram and give one vector per utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from audiossl.nn.masking import valid_frames
from audiossl.nn.speaker_frontend import SpeakerFrontend

if TYPE_CHECKING:
    from audiossl.contracts import Count, EncoderOutput
    from audiossl.nn.speaker_frontend import FrontendConfig


class SpeakerBody(Protocol):
    """What lies between features and embedding; always an `nn.Module`.

    dim, num_layers: of the frames that it gives; time_stride: frames of the features per frame of these.
    """

    dim: int
    num_layers: int
    embedding_dim: int
    time_stride: int

    def frame_layers(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """features: (batch, frame, feature), zero at padding; lengths: (batch,), valid frames."""
        ...

    def pool(self, output: EncoderOutput) -> Tensor:
        """Embedding (batch, embedding_dim) of what `frame_layers` gave."""
        ...


class SpeakerNetwork(nn.Module):
    """A spectrogram, a body and its pooling: a `contracts.SpeakerEncoder`.

    In eval mode padding changes nothing. In training mode batch norms take their statistics over all frames, padding too, so that
    crops are best of one length, as all the published recipes cut them: then nothing is masked and no time is spent on it.
    """

    def __init__(self, config: FrontendConfig, body: SpeakerBody) -> None:
        super().__init__()
        self.frontend = SpeakerFrontend(config)
        self.body = body
        self.dim = body.dim
        self.num_layers = body.num_layers
        self.embedding_dim = body.embedding_dim
        self.stride = self.frontend.stride * body.time_stride
        self.sample_rate = self.frontend.sample_rate

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples: the whole windows, divided by the body's strides and rounded up."""
        return strided(self.frontend.num_frames(samples), self.body.time_stride)

    def forward(self, waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        """waveform: (batch, sample) in [-1, 1]; lengths: (batch,), valid samples. Frames are undefined at padding."""
        return self.body.frame_layers(*self.frontend(waveform, lengths))

    def embed(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Embedding (batch, embedding_dim), not normalised; ValueError where an utterance has no frame."""
        require_frames(self.num_frames(lengths), lengths)
        return self.body.pool(self(waveform, lengths))


def require_frames(frames: Tensor, samples: Tensor) -> None:
    """Raise ValueError for the first utterance of a batch without frames. frames, samples: (batch,)."""
    empty = (frames < 1).nonzero()
    if len(empty):
        row = int(empty[0])
        raise ValueError(
            f"utterance {row} of the batch: {int(samples[row])} samples give no frame to embed; leave out what is shorter"
        )


def validity(lengths: Tensor, num_frames: int) -> Tensor | None:
    """Return (batch, frame) bool, True where a frame is valid, or None where all are, so that nothing need be masked."""
    valid = valid_frames(lengths, num_frames)
    return None if bool(valid.all()) else valid


def zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero what is not valid, as convolutions must see it. valid: bool that broadcasts to `x`, or None."""
    # `masked_fill` with a mask that broadcasts would lose the channels-last layout.
    return x if valid is None else torch.where(valid, x, 0.0)


def strided(count: Count, stride: int) -> Count:
    """Frames after a convolution of odd kernel k with stride `stride` and padding k // 2: divided and rounded up."""
    return (
        torch.div(count + stride - 1, stride, rounding_mode="floor")
        if isinstance(count, Tensor)
        else -(-count // stride)
    )
