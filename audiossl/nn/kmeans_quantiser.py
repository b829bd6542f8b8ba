"""Product quantisation by the nearest entry, trained like k-means: the second variant of vq-wav2vec."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossl.nn.cluster_means import cluster_means
from audiossl.nn.conv_frontend import conv_over_time
from audiossl.nn.valid_group_norm import ValidGroupNorm


class NearestEntries(NamedTuple):
    """q: (batch, frame, dim), float32. codes: (batch, frame, group) int64. loss: (batch,), see `KMeansQuantiser.forward`."""

    q: Tensor
    codes: Tensor
    loss: Tensor


class KMeansQuantiser(nn.Module):
    """Map, normalise and replace each group of channels by the nearest of its entries (Baevski et al., 2020, vq-wav2vec, section 3.2).

    shared: one codebook for all groups. commitment: gamma of eq. 3, what it weighs that frames stay near their entries.
    """

    def __init__(self, dim: int, *, groups: int, entries: int, shared: bool = False, commitment: float = 0.25) -> None:
        super().__init__()
        if groups < 1 or dim % groups:
            raise ValueError(f"{dim} features do not split into {groups} groups; give a divisor")
        self.groups, self.entries, self.commitment = groups, entries, commitment
        self.projection = nn.Conv1d(dim, dim, 1, groups=groups, bias=False)
        self.norm = ValidGroupNorm(dim, groups)
        self.codebook = nn.Parameter(0.01 * torch.randn(1 if shared else groups, entries, dim // groups))

    def forward(self, x: Tensor, lengths: Tensor) -> NearestEntries:
        """Quantise frames. x: (batch, frame, dim); lengths: (batch,) valid frames.

        q has the value of the entries and gives its gradient to the frames as if it were them (straight through). loss: the mean over valid frames
        and channels of (sg z - e)^2 + commitment (z - sg e)^2 for each utterance, by which alone entries learn. float32 at least, also under autocast.
        """
        z = self.normalised(x, lengths)
        with torch.autocast(x.device.type, enabled=False):
            codes = self._nearest(z.detach())
            entries = self.look_up(codes.flatten(0, 1)).view_as(z)
            squares = (z.detach() - entries).square() + self.commitment * (z - entries.detach()).square()
            frames = torch.arange(z.shape[1], device=z.device) < lengths.unsqueeze(1)
            loss = squares.mean(2).masked_fill(~frames, 0.0).sum(1) / lengths.clamp(min=1)
            return NearestEntries(entries.detach() + (z - z.detach()), codes, loss)

    def normalised(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map and normalise each group of channels: what entries are compared with. Shapes as for `forward`."""
        z: Tensor = self.norm(conv_over_time(x, self.projection), lengths)
        return z

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Make the entries means of clusters of frames; our variant. frames: (frame, dim), as `normalised` gives them."""
        groups = frames.reshape(len(frames), self.groups, -1).transpose(0, 1)  # (group, frame, dim of a group)
        sets = groups.flatten(0, 1).unsqueeze(0) if len(self.codebook) == 1 else groups
        self.codebook.copy_(torch.stack([cluster_means(each, self.entries) for each in sets]))

    def look_up(self, codes: Tensor) -> Tensor:
        """Entries of codes, groups beside each other. codes: (frame, group) int64. Returns (frame, dim)."""
        shift = (
            torch.arange(len(self.codebook), device=codes.device) * self.entries
        )  # one broadcasts where it is shared
        return F.embedding(codes + shift, self.codebook.flatten(0, 1)).flatten(1)

    def _nearest(self, z: Tensor) -> Tensor:
        """z: (batch, frame, dim). The largest z.e - |e|^2 / 2 is the nearest e; no array of differences is made."""
        entries = self.codebook.detach().expand(self.groups, -1, -1)
        scores = torch.einsum("btgd,ged->btge", z.reshape(*z.shape[:2], self.groups, -1), entries)
        return (scores - entries.square().sum(-1) / 2).argmax(dim=-1)
