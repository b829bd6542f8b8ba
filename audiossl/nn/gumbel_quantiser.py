"""Product quantisation with a straight-through Gumbel softmax: the discrete targets of vq-wav2vec and wav2vec 2.0."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.nn.cluster_means import cluster_means

_SHARPNESS = 10.0


class Quantised(NamedTuple):
    """q: (frame, code_dim), float32. codes: (frame, group) int64. soft_probs: (frame, group, entry), softmax of the logits without noise, float32."""

    q: Tensor
    codes: Tensor
    soft_probs: Tensor


class GumbelQuantiser(nn.Module):
    """Choose one of V entries in each of G groups and concatenate them (Baevski et al., 2020, section 2, eq. 1).

    dim: of the input. code_dim: of the result, code_dim / groups of it from each group. shared: one codebook for all groups, as in vq-wav2vec.
    hidden_layers: of the network that gives the logits, each as wide as hidden_factor * dim and followed by the activation; 0 is one linear map.
    """

    def __init__(
        self,
        dim: int,
        *,
        groups: int,
        entries: int,
        code_dim: int,
        shared: bool = False,
        hidden_layers: int = 0,
        hidden_factor: int = 2,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        if groups < 1 or code_dim < groups or code_dim % groups:
            raise ValueError(f"code_dim {code_dim} does not split into {groups} groups; give a multiple of the groups")
        self.groups, self.entries = groups, entries
        self.logits = _logit_network(dim, groups * entries, hidden_layers, hidden_factor, activation)
        self.codebook = nn.Parameter(torch.rand(1 if shared else groups, entries, code_dim // groups))

    def forward(self, x: Tensor, temperature: Tensor | float) -> Quantised:
        """Quantise frames. x: (frame, dim). In training the choice is drawn at `temperature`, in evaluation it is the likeliest.

        The value is a look-up of the chosen entries, the same to the last bit wherever the codes are. Entries get the look-up's gradient;
        logits get that of the mixture of entries under the noisy softmax, which enters as a difference from itself. Nothing is larger than
        frame x entry, where the published product of one-hot vectors and codebook is frame x entry x dim. float32 at least, also under
        autocast.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = self.logits(x if x.dtype == torch.float64 else x.float()).unflatten(
                -1, (self.groups, self.entries)
            )
            soft = logits.softmax(dim=-1)
            if not self.training:
                codes = logits.argmax(dim=-1)
                return Quantised(self.look_up(codes), codes, soft)
            noise = torch.empty_like(logits).exponential_().clamp_min_(torch.finfo(logits.dtype).tiny)  # some give 0
            noisy = ((logits - noise.log_()) / temperature).softmax(dim=-1)
            codes = noisy.argmax(dim=-1)
            mixture = torch.einsum("fge,ged->fgd", noisy, self._entries().detach()).flatten(1)
            return Quantised(self.look_up(codes) + (mixture - mixture.detach()), codes, soft)

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Make the last linear layer choose the nearest of clusters of its input, each group among those of its share of the channels; our variant.

        frames: (frame, dim), as for `forward`. With the share h of a frame less the mean of all, the logit of the cluster with mean m is m.h - |m|^2 / 2
        times what makes the standard deviation over entries 10, so that noise seldom changes the choice (N(0, 1) weights, as wav2vec 2.0 begins, make it
        the root of the width). Entries become random projections of these means, with variance 1: codes of like sounds are alike, as k-means' are.
        """
        last = self.logits[-1] if isinstance(self.logits, nn.Sequential) else self.logits
        assert isinstance(last, nn.Linear)
        hidden: Tensor = self.logits[:-1](frames) if isinstance(self.logits, nn.Sequential) else frames
        width = hidden.shape[1] // self.groups
        centres = hidden.mean(0)
        kept = (hidden - centres)[:, : width * self.groups]
        shares = kept.reshape(len(kept), self.groups, width).transpose(0, 1)  # (group, frame, width)
        sets = shares.flatten(0, 1).unsqueeze(0) if len(self.codebook) == 1 else shares
        means = torch.stack([cluster_means(each, self.entries) for each in sets])  # (1 or group, entry, width)
        entries = means @ torch.randn(width, self.codebook.shape[2]).to(means)
        self.codebook.copy_((entries - entries.mean(1, keepdim=True)) / entries.std())
        last.weight.zero_()
        for group, (mean, share) in enumerate(zip(means.expand(self.groups, -1, -1), shares, strict=True)):
            rows, columns = (slice(group * size, (group + 1) * size) for size in (self.entries, width))
            offsets = -mean.square().sum(1) / 2
            scale = _SHARPNESS / (share @ mean.T + offsets).std(dim=1).mean()
            last.weight[rows, columns] = scale * mean
            last.bias[rows] = scale * (offsets - mean @ centres[columns])

    def look_up(self, codes: Tensor) -> Tensor:
        """Entries of codes, groups beside each other. codes: (frame, group) int64. Returns (frame, code_dim)."""
        shift = (
            torch.arange(len(self.codebook), device=codes.device) * self.entries
        )  # one value broadcasts where it is shared
        return F.embedding(codes + shift, self.codebook.flatten(0, 1)).flatten(1)

    def identity(self, codes: Tensor) -> Tensor:
        """One number for each combination of codes. codes: (frame, group). Returns (frame,) int64."""
        place = self.entries ** torch.arange(self.groups, device=codes.device)
        return (codes * place).sum(dim=-1)

    def _entries(self) -> Tensor:
        return self.codebook.expand(self.groups, -1, -1)


def gumbel_temperature(step: int, *, start: float = 2.0, end: float = 0.5, decay: float = 0.999995) -> float:
    """Temperature after `step` optimiser steps: max(start * decay^step, end)."""
    return max(start * decay**step, end)


def perplexity(distribution: Tensor) -> Tensor:
    """How many entries are in use: exp of the entropy. distribution: (..., entry), sums to 1. Returns (...)."""
    smallest = torch.finfo(
        distribution.dtype
    ).tiny  # of an entry that is never used the logarithm, and its gradient, stays finite
    return (-distribution * distribution.clamp_min(smallest).log()).sum(dim=-1).exp()


def code_perplexity(codes: Tensor, entries: int) -> Tensor:
    """Perplexity of the codes chosen in a batch, per group. codes: (frame, group) int64. Returns (group,) float32."""
    groups = codes.shape[1]
    shifted = codes + torch.arange(groups, device=codes.device) * entries
    counts = torch.bincount(shifted.flatten(), minlength=groups * entries).view(groups, entries)
    return perplexity(counts / max(len(codes), 1))


def _logit_network(dim: int, out: int, hidden_layers: int, factor: int, activation: str) -> nn.Module:
    if hidden_layers == 0:
        linear = nn.Linear(dim, out)
        nn.init.normal_(linear.weight)  # as published; deeper ones keep torch's initialisation
        nn.init.zeros_(linear.bias)
        return linear
    layers: list[nn.Module] = []
    width = factor * dim
    for _ in range(hidden_layers):
        layers += [nn.Linear(dim, width), nn.GELU() if activation == "gelu" else nn.ReLU()]
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, out))
