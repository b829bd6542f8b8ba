"""Speaker heads on the layers of a self-supervised encoder: multi-head factorised attentive pooling, and ECAPA-TDNN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from audiossl.nn.ecapa_blocks import EcapaBody
from audiossl.nn.pooling import mixed
from audiossl.nn.speaker_frontend import instance_normalised
from audiossl.nn.statistics_pooling import softmax_over_frames, without_padding

if TYPE_CHECKING:
    from audiossl.contracts import EncoderOutput


class MHFA(nn.Module):
    """Keys that say where to look and values that say what is there, each its own mixture of layers (Peng et al., 2022).

    K = (sum_l w^k_l Z_l) S^k and V = (sum_l w^v_l Z_l) S^v, w softmax over the layers; A = softmax over frames of K Q; the head h gives
    c_h = sum_t A_th V_t, and the embedding is a linear layer on all c_h. Biases of keys and queries would cancel in the softmax, so there
    are none. compression_dim: of keys and values. num_layers: blocks of the encoder, so that num_layers + 1 layers are mixed.
    """

    def __init__(
        self, dim: int, num_layers: int, *, num_heads: int = 64, compression_dim: int = 128, embedding_dim: int = 256
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_layers = num_layers
        self.embedding_dim = embedding_dim
        self.key_logits = nn.Parameter(torch.zeros(num_layers + 1))
        self.value_logits = nn.Parameter(torch.zeros(num_layers + 1))
        self.key = nn.Linear(dim, compression_dim, bias=False)
        self.value = nn.Linear(dim, compression_dim)
        self.query = nn.Linear(compression_dim, num_heads, bias=False)
        self.embedding = nn.Linear(num_heads * compression_dim, embedding_dim)

    def forward(self, output: EncoderOutput) -> Tensor:
        """Embedding (batch, embedding_dim)."""
        lengths = output.lengths
        keys = self.key(without_padding(mixed(output.layers, self.key_logits), lengths))
        values = self.value(without_padding(mixed(output.layers, self.value_logits), lengths))
        attention = softmax_over_frames(self.query(keys), lengths).to(values.dtype)  # (batch, frame, head)
        pooled = attention.transpose(1, 2) @ values  # (batch, head, compression_dim)
        embedding: Tensor = self.embedding(pooled.flatten(1))
        return embedding


class EcapaHead(nn.Module):
    """ECAPA-TDNN on a mixture of the layers, normalised per utterance and feature, as WavLM was evaluated (Chen et al., 2022).

    pooled_dim: features after aggregation; num_layers: blocks of the encoder, so that num_layers + 1 layers are mixed.
    """

    def __init__(
        self, dim: int, num_layers: int, *, channels: int = 512, pooled_dim: int = 1536, embedding_dim: int = 192
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_layers = num_layers
        self.embedding_dim = embedding_dim
        self.layer_logits = nn.Parameter(torch.zeros(num_layers + 1))
        self.body = EcapaBody(dim, channels=channels, pooled_dim=pooled_dim, embedding_dim=embedding_dim)

    def forward(self, output: EncoderOutput) -> Tensor:
        """Embedding (batch, embedding_dim)."""
        features = instance_normalised(mixed(output.layers, self.layer_logits), output.lengths, variance=True)
        return self.body.pool(self.body.frame_layers(features, output.lengths))
