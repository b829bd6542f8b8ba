"""data2vec 2.0: regress the teacher's contextual representations at masked frames, from a student that sees the others alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses.data2vec2 import data2vec2
from audiossl.nn.block_masking import block_mask
from audiossl.nn.conv_decoder import ConvDecoder
from audiossl.nn.ema import linear_decay
from audiossl.nn.masking import valid_frames
from audiossl.nn.spread import deviation, spread
from audiossl.objectives._masked import MaskedViews
from audiossl.objectives._teacher import TeacherConfig, TeacherObjective

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import SSLEncoder


class Data2Vec2(TeacherObjective):
    """Baevski et al. (2023): several masks of an utterance share one frontend pass and one teacher pass.

    The student's positions hear masked frames as zeros; its blocks do not see them. The encoder's `mask_emb` is not used.
    """

    @dataclass(frozen=True)
    class Config(TeacherConfig):
        """The published base model for speech.

        clones: masked versions of each utterance. mask_prob: the exact share of masked frames, of which same_count makes equally many. mask_adjust, inverse_mask: see
        `nn.block_masking`; the paper describes inverse masks, its released speech models mask the blocks. decoder_*: of the convolutions.
        noise_std: of what stands at masked frames before the decoder. ema_start, ema_end: decay of the teacher, which goes from one to the
        other in ema_steps steps.
        """

        crop_duration: float = 20.0
        mask_prob: float = 0.5
        mask_length: int = 5
        same_count: bool = False
        mask_adjust: float = 0.05
        inverse_mask: bool = False
        clones: int = 8
        decoder_dim: int = 384
        decoder_layers: int = 4
        decoder_kernel: int = 7
        decoder_groups: int = 16
        decoder_dropout: float = 0.1
        noise_std: float = 0.01
        ema_start: float = 0.999
        ema_end: float = 0.99999
        ema_steps: int = 75_000

        def __post_init__(self) -> None:
            super().__post_init__()
            self.check_share("mask_adjust", "decoder_dropout", "ema_start", "ema_end")
            self.check_positive(
                "clones", "decoder_dim", "decoder_layers", "decoder_kernel", "decoder_groups", "ema_steps"
            )
            if self.noise_std < 0:
                raise ValueError(f"objective.noise_std: {self.noise_std} is negative")

        @classmethod
        def tiny(cls) -> Data2Vec2.Config:
            """Return the smallest one that exercises everything, for tests."""
            sizes: dict[str, Any] = {"clones": 2, "decoder_dim": 8, "decoder_layers": 2, "decoder_groups": 4}
            return cls(crop_duration=0.5, mask_length=3, top_layers=2, ema_start=0.5, ema_steps=2, **sizes)

    headline: ClassVar[tuple[str, ...]] = ("target_std", "prediction_std")
    collapse_floors: ClassVar[dict[str, float]] = {"target_std": 0.1, "prediction_std": 0.01}
    """As published, there from 5,000 updates on."""

    def __init__(self, encoder: SSLEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.config = config
        encoder.mask_emb.requires_grad_(False)
        self.decoder = ConvDecoder(
            encoder.dim,
            config.decoder_dim,
            depth=config.decoder_layers,
            kernel=config.decoder_kernel,
            groups=config.decoder_groups,
        )
        self.decoder_dropout = nn.Dropout(config.decoder_dropout)
        self.head = nn.Linear(config.decoder_dim, encoder.dim)

    def light_views(self, config: Config, grid: FrameGrid, *, normalise: bool) -> CloneViews:
        """Return views with several masks."""
        return CloneViews(config, grid, normalise)

    def decay_after(self, step: int) -> float:
        """Linear, then constant."""
        config = self.config
        return linear_decay(step, start=config.ema_start, end=config.ema_end, steps=config.ema_steps)

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames of all clones and count these (section 3.1); see `data2vec2`."""
        self.begin()
        local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        x = self.encoder.projection(local.z)  # (batch, frame, dim)
        targets = reduce(torch.add, self.targets(x.detach(), local.lengths)) / self.top_layers
        targets = targets.flatten(0, 1)[batch["target_frames"]]  # (masked frame, dim)
        masked = batch["masked"].flatten(0, 1)  # (batch * clone, frame)
        assert masked.shape == (len(x) * self.config.clones, x.shape[1]), (masked.shape, x.shape)
        top = self._student(x, local.lengths, masked)
        hidden = self._decoded(top, local.lengths, masked)
        predictions = self.head(hidden.flatten(0, 1)[batch["masked_frames"]])
        loss = data2vec2(predictions, targets).sum()
        count = torch.full((), len(targets), dtype=torch.float32, device=loss.device)
        metrics = spread(top.flatten(0, 1)[batch["visible_frames"]])
        metrics["target_std"] = deviation(targets)
        metrics["prediction_std"] = deviation(predictions)
        return StepOutput(loss, count, metrics)

    def _student(self, x: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
        """Frames in the context of visible ones: (batch * clone, frame, dim), undefined where masked."""
        clones = self.config.clones
        x, lengths = x.repeat_interleave(clones, 0), lengths.repeat_interleave(clones)
        visible = valid_frames(lengths, x.shape[1]) & ~masked
        return self.encoder.transformer.visible(self.encoder.dropout_input(x), lengths, visible)

    def _decoded(self, top: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
        """Output of the decoder over visible frames and noise between them; the noise's mean, 0, in evaluation."""
        top = self.decoder_dropout(top)
        noise = self.config.noise_std * torch.randn_like(top) if self.training else torch.zeros_like(top)
        x = torch.where(masked.unsqueeze(-1), noise, top)
        valid = valid_frames(lengths.repeat_interleave(self.config.clones), x.shape[1])
        return self.decoder(x, valid)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CloneViews(MaskedViews):
    """What data2vec 2.0 does in the loader's workers."""

    config: Data2Vec2.Config

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask each utterance several times, and find the frames.

        Adds masked: (batch, clone, frame) bool; masked_frames and visible_frames: (frame,) int64, places in the flattened (batch, clone,
        frame); target_frames: (masked frame,) int64, the places of the masked ones in the flattened (batch, frame).
        """
        frames = self.frames(batch)
        masked = self.mask(np.repeat(frames, self.config.clones), rng)
        width = masked.shape[1]
        visible = ~masked & (np.arange(width) < np.repeat(frames, self.config.clones)[:, None])
        row, frame = np.nonzero(masked)
        return batch | {
            "masked": masked.reshape(-1, self.config.clones, width),
            "masked_frames": row * width + frame,
            "visible_frames": np.flatnonzero(visible),
            "target_frames": row // self.config.clones * width + frame,
        }

    def mask(self, frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Blocks as the config has them: (row, frame) bool, True = masked. frames: (row,)."""
        return block_mask(
            frames,
            mask_prob=self.config.mask_prob,
            mask_length=self.config.mask_length,
            adjust=self.config.mask_adjust,
            inverse=self.config.inverse_mask,
            generator=rng,
            same_count=self.config.same_count,
        )
