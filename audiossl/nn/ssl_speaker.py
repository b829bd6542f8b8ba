"""A self-supervised encoder with a speaker head on its layers: one vector per utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import nn

from audiossl.nn.frozen import frozen_batch_norms, frozen_parts
from audiossl.nn.speaker_encoder import require_frames

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Count, EncoderOutput
    from audiossl.nn.ssl_encoder import SSLEncoder


class SpeakerHead(Protocol):
    """What `SSLSpeaker` needs of a head; always an `nn.Module`. dim, num_layers: of the encoder that it fits."""

    dim: int
    num_layers: int
    embedding_dim: int

    def __call__(self, output: EncoderOutput) -> Tensor:
        """All layers of frames to (batch, embedding_dim)."""
        ...


class SSLSpeaker(nn.Module):
    """An encoder and the head that turns its layers into an embedding: a `contracts.SpeakerEncoder`.

    What trains is the caller's choice: freeze the encoder with an adapter, or train all of it. What lies below the first trained part
    stays in eval mode: without dropout, it is the function that was pretrained. ValueError where the head was made for another encoder.
    """

    def __init__(self, encoder: SSLEncoder, head: SpeakerHead) -> None:
        super().__init__()
        if (head.dim, head.num_layers) != (encoder.dim, encoder.num_layers):
            raise ValueError(
                f"head for {head.num_layers} layers of {head.dim}: the encoder has {encoder.num_layers} of {encoder.dim}; "
                "build the head with the encoder's num_layers and dim"
            )
        self.encoder = encoder
        self.head = head
        self.dim = encoder.dim
        self.stride = encoder.stride
        self.sample_rate = encoder.sample_rate
        self.num_layers = encoder.num_layers
        self.embedding_dim = head.embedding_dim
        # Nothing is masked here: as a parameter it would never get a gradient, and processes that train together would wait for it.
        if hasattr(encoder, "mask_emb"):
            unused = encoder.mask_emb.detach()
            del encoder.mask_emb
            encoder.register_buffer("mask_emb", unused)

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        return self.encoder.num_frames(samples)

    def train(self, mode: bool = True) -> SSLSpeaker:
        """Switch dropout on and off, but never on below the first trained part, nor batch norms that are frozen."""
        super().train(mode)
        for part in (*frozen_parts(self.encoder), *frozen_batch_norms(self.encoder)):
            part.eval()
        return self

    def forward(self, waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        """Frames of every layer of the encoder. waveform: (batch, sample); lengths: (batch,), valid samples."""
        output: EncoderOutput = self.encoder(waveform, lengths)
        return output

    def embed(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Embedding (batch, embedding_dim), not normalised; ValueError where an utterance has no frame."""
        output = self(waveform, lengths)
        require_frames(output.lengths, lengths)
        return self.head(output)
