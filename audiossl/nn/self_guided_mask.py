"""Masks chosen by a model's own attention: what it looks at most is hidden (Xie et al., 2024)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from audiossl.nn.attention import SelfAttention
from audiossl.nn.biased_attention import BiasedAttention
from audiossl.nn.masking import valid_frames

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


@torch.no_grad()
def contiguity(masked: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """How much masked frames cling together: their neighbouring pairs, and as many as masks drawn at random would have on average; scalars.

    masked: (batch, frame) bool, none at padding; lengths: (batch,), T. k masked frames at random places have k (k - 1) / T pairs, so that the ratio is 1
    for these, 0 where no two touch, and up to T / k for a block.
    """
    count = masked.sum(dim=1).float()
    pairs = (masked[:, 1:] & masked[:, :-1]).sum().float()
    return pairs, (count * (count - 1) / lengths.clamp(min=1)).sum()


@torch.no_grad()
def self_guided_mask(
    encoder: SSLEncoder, z: Tensor, lengths: Tensor, *, mask_share: float, query_share: float
) -> Tensor:
    """Mask the frames that get most attention in the first block from some random queries: (batch, frame) bool.

    z: (batch, frame, feature_dim), local features without masks; lengths: (batch,). See `attention_received` and `most_of`. The encoder is asked in
    eval mode: no dropout blurs what it looks at, and batch norms never measure unmasked frames. ValueError where its first block has no attention
    of this project.
    """
    attention = getattr(encoder.transformer.layers[0], "attention", None)
    if not isinstance(attention, SelfAttention):
        raise ValueError(
            f"{type(encoder).__name__}: its first block has no attention that could choose masks; set objective.masking = 'span'"
        )
    seen: list[Any] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    modes = [(module, module.training) for module in encoder.modules()]  # frozen parts are in eval mode already
    encoder.eval()
    try:
        encoder.contextualise(z, lengths, num_layers=1)
    finally:
        handle.remove()
        for module, training in modes:
            module.training = training
    x, layout = seen[0]
    bias = attention.bias_of(x, layout) if isinstance(attention, BiasedAttention) else None  # all frames: never packed
    received = attention_received(attention, layout.leave(x), lengths, query_share=query_share, bias=bias)
    torch.clear_autocast_cache()  # older versions of torch would train with the weights that it cast here, which have no graph
    return most_of(received, lengths, share=mask_share)


def attention_received(
    attention: SelfAttention, x: Tensor, lengths: Tensor, *, query_share: float, bias: Tensor | None = None
) -> Tensor:
    """How much attention each frame gets, the mean over heads, summed over queries: (batch, frame) float32, 0 at padding.

    x: (batch, frame, dim), the input of the attention. query_share: of the valid frames of each utterance, rounded up, which are the queries; they
    are drawn from torch's global generator. bias: of the logits, (head, frame, frame) or (batch, head, frame, frame).
    """
    query, key, _ = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).unbind(-3)  # (batch, frame, head, dim)
    valid = valid_frames(lengths, x.shape[1])
    counts = (query_share * lengths).ceil().long()
    width = max(1, int(counts.max()))
    order = torch.rand(valid.shape, device=x.device).masked_fill(~valid, 2.0).argsort(dim=1)[:, :width]
    row = torch.arange(len(x), device=x.device).unsqueeze(1)
    chosen = query[row, order].transpose(1, 2)  # (batch, head, query, dim)
    scores = (chosen @ key.permute(0, 2, 3, 1)).float() / math.sqrt(query.shape[-1])
    if bias is not None:
        pairs = bias.float().expand(len(x), -1, -1, -1).transpose(1, 2)  # (batch, query, head, key)
        scores = scores + pairs[row, order].transpose(1, 2)
    weights = scores.masked_fill(~valid[:, None, None], -1e30).softmax(dim=-1).mean(dim=1)  # (batch, query, frame)
    asked = torch.arange(width, device=x.device) < counts.unsqueeze(1)
    received: Tensor = (weights * asked.unsqueeze(2)).sum(dim=1).masked_fill(~valid, 0.0)
    return received


def most_of(scores: Tensor, lengths: Tensor, *, share: float) -> Tensor:
    """Mark the floor(share T) valid frames of the highest score, but leave one of them: (batch, frame) bool.

    scores: (batch, frame); lengths: (batch,), T.
    """
    valid = valid_frames(lengths, scores.shape[1])
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True)
    counts = torch.minimum((share * lengths.double() + 1e-6).floor().long(), lengths - 1)
    ranked = torch.arange(scores.shape[1], device=scores.device) < counts.unsqueeze(1)
    return torch.zeros_like(ranked).scatter(1, order, ranked)
