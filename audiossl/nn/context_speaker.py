"""A speaker encoder that is judged by a recurrent context on its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from audiossl.nn.pooling import mean_over_frames
from audiossl.nn.speaker_encoder import require_frames

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Count, EncoderOutput, SpeakerEncoder


class ContextSpeaker(nn.Module):
    """An encoder and the GRU on its last layer: a `contracts.SpeakerEncoder`.

    Its embedding is the mean of the GRU's states over the valid frames; what the encoder has as an embedding of its own is not used. A
    GRU looks back only, so that padding changes nothing.
    """

    def __init__(self, encoder: SpeakerEncoder, context: nn.GRU) -> None:
        super().__init__()
        self.encoder = encoder
        self.context = context
        self.dim = encoder.dim
        self.stride = encoder.stride
        self.sample_rate = encoder.sample_rate
        self.num_layers = encoder.num_layers
        self.embedding_dim = context.hidden_size

    @property
    def inside(self) -> SpeakerEncoder:
        """What another experiment may start from."""
        return self.encoder

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        return self.encoder.num_frames(samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        """Frames of every layer of the encoder. waveform: (batch, sample); lengths: (batch,), valid samples."""
        return self.encoder(waveform, lengths)

    def embed(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Embedding (batch, embedding_dim), not normalised; ValueError where an utterance has no frame."""
        output = self(waveform, lengths)
        require_frames(output.lengths, lengths)
        states, _ = self.context(output.layers[-1])  # (batch, frame, embedding_dim)
        return mean_over_frames(states, output.lengths)
