"""BEST-RQ: predict which random code the filterbank of a masked frame is nearest to (Chiu et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses.unit_cross_entropy import unit_cross_entropy
from audiossl.nn.mel_patches import mel_patches, patch_frames
from audiossl.nn.random_projection_quantiser import RandomProjectionQuantiser
from audiossl.nn.spread import spread
from audiossl.objectives._mask_input import MaskInputConfig, MaskInputObjective
from audiossl.objectives._self_guided import SelfGuidedViews
from audiossl.objectives._units import code_health
from audiossl.objectives._unmasked import looked_at, share_right

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


class BestRQ(MaskInputObjective):
    """Masked prediction of codes from a quantiser that never learns, so that nothing can collapse into the targets.

    Targets are the log-mel frames of each encoder frame, stacked, normalised over the utterance. `head`: one linear classifier per book.
    """

    @dataclass(frozen=True)
    class Config(MaskInputConfig):
        """SpeechBrain's recipe (Whetten et al.): 60 % of the frames of 40 ms, one by one.

        shared_mask: one mask for all utterances of a batch, drawn for the shortest, so that the ends of the others are never masked, as there; else each has its own.
        Chiu et al. start spans of 400 ms at 1 % of the frames of 10 ms (as an unofficial port has it). mask_with: what stands in a masked frame: "noise",
        N(0, noise_std^2), or "embedding", the encoder's `mask_emb`. As published, noise replaces the normalised filterbank: mask_input. By default it replaces
        the frontend's normalised output, so that every encoder can have it: our variant, in which visible neighbours of a masked frame have heard its target
        through the frontend's convolutions (see `MaskInputConfig`). An embedding replaces the output either way; with mask_input the filterbank is 0
        beneath it. In evaluation, the noise is its mean, 0. books: independent quantisers, whose losses are averaged; Chiu et al. have 1.
        """

        mask_prob: float = 0.6
        mask_with: Literal["noise", "embedding"] = "noise"
        noise_std: float = 0.1
        num_mels: int = 80
        num_codes: int = 8192
        code_dim: int = 16
        books: int = 1
        shared_mask: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("noise_std", "num_mels", "num_codes", "code_dim", "books"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            if self.shared_mask and self.masking == "self_guided":
                raise ValueError("objective.shared_mask: true is for masking = 'span'; leave it out, or choose that")
            if self.mask_with == "embedding" and self.noise_std != BestRQ.Config.noise_std:
                raise ValueError(
                    f"objective.noise_std: {self.noise_std} is for mask_with = 'noise'; leave it out, or choose that"
                )

        @classmethod
        def tiny(cls) -> BestRQ.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, num_mels=20, num_codes=16, code_dim=4, books=2)

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "target_perplexity")

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        dim = patch_frames(encoder.stride, encoder.sample_rate) * config.num_mels
        self.quantiser = RandomProjectionQuantiser(
            dim, code_dim=config.code_dim, num_codes=config.num_codes, books=config.books
        )
        self.head = nn.Linear(encoder.dim, config.books * config.num_codes)
        if (
            config.mask_with == "noise"
        ):  # it would never get a gradient, for which processes that train together would wait
            encoder.mask_emb.requires_grad_(False)

    def light_views(self, config: Config, grid: FrameGrid, *, normalise: bool) -> BestRQViews:
        """Return views whose masks may be shared."""
        return BestRQViews(config, grid, normalise)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the cross-entropy over masked frames, the mean over books, and count the frames."""
        local, masked, places = self.features(batch, noise_std=self._noise_std())
        top, labels = self._context(local, masked).flatten(0, 1), self._targets(batch, local)
        seen, codes = top[places], labels[places]  # (masked frame, dim), (masked frame, book)
        logits = self.head(seen).unflatten(1, (self.config.books, -1))
        nats, predicted = unit_cross_entropy(logits.flatten(0, 1), codes.flatten())
        loss = nats.sum() / self.config.books
        count = torch.full((), len(places), dtype=torch.float32, device=loss.device)
        right = (predicted == codes.flatten()).sum() / self.config.books
        metrics = spread(seen) | self.mask_metrics(masked, local) | {"masked_accuracy": (right, count)}
        metrics |= code_health(nats.view_as(codes), predicted.view_as(codes), codes, self.config.num_codes)
        others = looked_at(self.unmasked(batch, local, masked), training=self.training)
        metrics["unmasked_accuracy"] = self._accuracy(top[others], labels[others])
        return StepOutput(loss, count, metrics)

    @torch.no_grad()
    def _accuracy(self, frames: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """See `share_right`. frames: (frame, dim), in context. codes: (frame, book)."""
        return share_right(self.head(frames).unflatten(1, (self.config.books, -1)).argmax(dim=2), codes)

    def _context(self, local: LocalFeatures, masked: Tensor) -> Tensor:
        """Frames in context, some of them masked: (batch, frame, dim)."""
        if self.config.mask_with == "embedding":
            return self.encoder.contextualise(local.z, local.lengths, masked=masked).layers[-1]
        if self.config.mask_input:
            return self.encoder.contextualise(local.z, local.lengths).layers[-1]
        z = torch.where(masked.unsqueeze(-1), torch.randn_like(local.z) * self._noise_std(), local.z)
        return self.encoder.contextualise(z, local.lengths).layers[-1]

    def _noise_std(self) -> float:
        return self.config.noise_std if self.training and self.config.mask_with == "noise" else 0.0

    def _targets(self, batch: Batch, local: LocalFeatures) -> Tensor:
        """Codes of all frames: (batch * frame, book)."""
        patches = mel_patches(
            batch["waveform"],
            batch["waveform_lengths"],
            num_frames=local.z.shape[1],
            stride=self.encoder.stride,
            num_mels=self.config.num_mels,
            sample_rate=self.encoder.sample_rate,
        )
        codes: Tensor = self.quantiser(patches.flatten(0, 1))
        return codes


@dataclass(frozen=True)
class BestRQViews(SelfGuidedViews):
    """The work in the loader's workers."""

    config: BestRQ.Config

    def mask(self, frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Spans as the config has them: (batch, frame) bool, True = masked. frames: (batch,)."""
        if not self.config.shared_mask:
            return super().mask(frames, rng)
        shared = super().mask(frames.min(keepdims=True), rng)
        masked = np.zeros((len(frames), int(frames.max())), dtype=np.bool_)
        masked[:, : shared.shape[1]] = shared
        return masked
