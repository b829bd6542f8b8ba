"""Continuous BERT: find the frame that was masked among others of the utterance (Baevski et al., 2019, Effectiveness of self-supervised pre-training)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses.clamped_contrastive import clamped_contrastive
from audiossl.nn.features import MFCC39, fbank, mfcc39
from audiossl.nn.masking import valid_frames
from audiossl.nn.spread import spread
from audiossl.objectives._bert import SpanConfig, span_frames
from audiossl.objectives._contrastive import compared, slots_of
from audiossl.objectives._mask_input import need_filterbank
from audiossl.objectives._masked import MaskedObjective, MaskedViews

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import SSLEncoder

_HOP = 160
_MELS = 80
_WIDTHS = {"log_mel": _MELS, "mfcc": MFCC39}


class ContinuousBERT(MaskedObjective):
    """Masked frames in context against what was there. The features stand still; their projection is trained, and could collapse."""

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy",)

    @dataclass(frozen=True)
    class Config(SpanConfig):
        """Masks of the paper (see `SpanConfig`); the rest is our variant, where the published numbers are not known.

        target: "log_mel", the filterbank frames of 10 ms that an encoder frame stands for, with zero mean and unit variance over the utterance; "mfcc", 13 cepstra
        with slopes and their slopes, likewise; or "features", the encoder's own local features, for a frontend that is trained already and frozen
        (encoder.feature_grad_mult = 0, and --init). The paper's inputs are its targets: the encoder `fbank` reads either (encoder.inputs).
        mask_input: as published, masks hide what the encoder hears, here the log-mels of masked frames. By default they stand behind the frontend, so that
        every encoder can have them: our variant, in which visible neighbours have heard the target through the convolutions (see `MaskInputConfig`).
        num_negatives: per masked frame, drawn from the other masked frames of its utterance. clamp: see `clamped_contrastive`.
        """

        target: Literal["log_mel", "mfcc", "features"] = "log_mel"
        mask_input: bool = False
        num_negatives: int = 100
        final_dim: int = 256
        clamp: float = 20.0

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("num_negatives", "final_dim", "clamp"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            if self.mask_input and self.target == "features":
                raise ValueError(
                    "objective.mask_input: true would hide what target = 'features' is made of; leave it out, or take 'log_mel' or 'mfcc'"
                )

        @classmethod
        def tiny(cls) -> ContinuousBERT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, mask_std=2.0, num_negatives=4, final_dim=8)

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        if config.mask_input:
            need_filterbank(encoder)
        super().__init__(encoder, config)
        self.config = config
        if config.target == "features" and encoder.feature_grad_mult:
            raise ValueError(
                f"objective.target: 'features' move while encoder.feature_grad_mult is {encoder.feature_grad_mult:g}; freeze them with 0, or take 'log_mel' or 'mfcc'"
            )
        if config.target in _WIDTHS and (encoder.stride % _HOP or encoder.sample_rate != 100 * _HOP):
            raise ValueError(
                f"objective.target: '{config.target}' has frames of {_HOP} samples at {100 * _HOP} Hz, the encoder one each {encoder.stride} at "
                f"{encoder.sample_rate}; take 'features'"
            )
        if config.target == "features":
            encoder.feature_norm.requires_grad_(requires_grad=False)
        width = encoder.feature_dim
        if config.target in _WIDTHS:
            width = _WIDTHS[config.target] * (encoder.stride // _HOP)
        self.project_context = nn.Linear(encoder.dim, config.final_dim)
        self.project_target = nn.Linear(width, config.final_dim)

    def light_views(self, config: Any, grid: FrameGrid, *, normalise: bool) -> ContinuousViews:
        """Return views that mask each utterance by itself."""
        return ContinuousViews(config, grid, normalise)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the contrastive loss over masked frames, and count them."""
        masked, places = batch["masked"], batch["masked_frames"]
        hidden = masked if self.config.mask_input else None
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"], hidden=hidden)
        top = self.encoder.contextualise(local.z, local.lengths, masked=masked).layers[-1]
        seen = top.flatten(0, 1)[places]
        if self.config.target == "features":
            wanted = local.z.detach().flatten(0, 1)[places]
        else:
            wanted = self._heard(batch["waveform"], batch["waveform_lengths"], places, masked.shape[1])
        context, targets = self.project_context(seen), self.project_target(wanted)
        found = clamped_contrastive(context, targets, batch["negatives"], batch["slots"], clamp=self.config.clamp)
        loss = found.loss.sum()
        count = torch.full((), len(seen), dtype=torch.float32, device=seen.device)
        metrics = spread(seen) | compared(context, targets)
        metrics |= {
            "masked_accuracy": (found.right.sum().float(), count),
            "masked_bits": (loss.detach() / math.log(2), count),
            "live_negatives": (found.live.sum().float(), count),
        }
        return StepOutput(loss, count, metrics)

    @torch.no_grad()
    def _heard(self, waveform: Tensor, lengths: Tensor, places: Tensor, num_frames: int) -> Tensor:
        """Frames of 10 ms under each masked encoder frame, beside each other: (masked frame, value). places: in (batch, num_frames), flattened."""
        frames, count = (
            mfcc39(waveform, lengths) if self.config.target == "mfcc" else fbank(waveform, lengths, num_mels=_MELS)
        )
        valid = valid_frames(count, frames.shape[1]).unsqueeze(-1)
        total = count.clamp(min=1).view(-1, 1, 1)
        centred = (frames - frames.masked_fill(~valid, 0.0).sum(1, keepdim=True) / total).masked_fill(~valid, 0.0)
        normal = centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / total + 1e-5)
        utterance, frame = places // num_frames, places % num_frames
        each = self.encoder.stride // _HOP
        under = frame.unsqueeze(1) * each + torch.arange(each, device=places.device)
        under = under.minimum(
            count[utterance].unsqueeze(1) - 1
        )  # the last encoder frame may reach beyond the last window
        return normal[utterance.unsqueeze(1), under].flatten(1)


@dataclass(frozen=True)
class ContinuousViews(MaskedViews):
    """The work in the loader's workers; masks and negatives belong to one utterance and so not to the batch."""

    config: ContinuousBERT.Config

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Crop, mask spans and draw negatives.

        waveform: (sample,). masked: (frame,) bool. negatives: (masked frame, negative) int64, ordinals of masked frames; -1 where there is no other.
        """
        _, waveform = self.crop(utterance, rng)
        masked = span_frames(self.grid.num_frames(len(waveform)), self.config, rng)
        count = int(masked.sum())
        negatives = np.full((count, self.config.num_negatives), -1)
        if count > 1:
            negatives = rng.integers(0, count - 1, negatives.shape)
            negatives += negatives >= np.arange(count)[:, None]
        return {"waveform": waveform, "masked": masked, "negatives": negatives}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the contract's
        """Find the masked frames; negatives are (utterance, slot, negative) now, see `ContrastiveViews`.

        Adds masked_frames: (masked frame,) int64, their places in the flattened batch; slots: (masked frame,) int64, those in (utterance, slot).
        """
        kept = {name: value for name, value in batch.items() if name != "negatives_lengths"}
        return kept | {
            "masked_frames": np.flatnonzero(batch["masked"]),
            "slots": slots_of(np.asarray(batch["negatives_lengths"])),
        }
