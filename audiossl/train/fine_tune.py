"""Fine-tuning: a pretrained encoder, what an adapter lets train in it, and a task on top, as one thing for the loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from audiossl.contracts import read_by
from audiossl.data.frame_grid import FrameGrid
from audiossl.nn.batch_dependence import minds_batch_mates, one_by_one
from audiossl.nn.frozen import frozen_batch_norms, frozen_parts
from audiossl.nn.span_masks import channel_mask, span_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, StepOutput, UnitsInput, Utterance
    from audiossl.nn.ssl_encoder import SSLEncoder


class Adapter(Protocol):
    """What `adapters/` holds."""

    def insert(self, encoder: Any) -> None:
        """Choose what trains in the encoder, and fill its slots."""

    def trainable_state(self, encoder: Any) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold."""


@dataclass(frozen=True)
class FineTuneConfig:
    """Regularisation while training, SpecAugment's way; the defaults are those of 100 labelled hours.

    mask_prob, mask_length: spans of frames that become the mask embedding (Baevski et al., 2020, appendix B). channel_mask_prob,
    channel_mask_length: spans of channels that become 0 in the whole utterance, those of the projected features as in the published
    implementation. A probability of 0 is no mask. same_count: all utterances of a batch are masked in the share of frames, and as many
    channels, of the least masked one; published is its count of frames, whatever their lengths. layer_drop: takes the place of the encoder's own.
    freeze_steps: for so many updates the task trains alone; published are 10,000 for 10 hours of labels or less.
    """

    mask_prob: float = 0.65
    mask_length: int = 10
    channel_mask_prob: float = 0.5
    channel_mask_length: int = 64
    same_count: bool = True
    layer_drop: float = 0.1
    freeze_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("mask_prob", "channel_mask_prob", "layer_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"finetune.{name}: {getattr(self, name)} is not between 0 and 1")
        for name, least in (("mask_length", 1), ("channel_mask_length", 1), ("freeze_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"finetune.{name}: {getattr(self, name)} is below {least}")


class FineTune(nn.Module):
    """Follows `contracts.Trainable`. The adapter is inserted here; only what it and the task train is ever in a gradient.

    Parts below the first trained one build no graph, since nothing in them asks for a gradient, and stay in eval mode: without
    dropout, they are the functions that were pretrained.
    """

    headline: ClassVar[tuple[str, ...]] = ("loss_per_token", "accuracy")
    """Of these, what the task measures is on the terminal."""

    encoder_needs: ClassVar[tuple[str, ...]] = ("contextualise",)

    def __init__(self, encoder: SSLEncoder, adapter: Adapter, task: Any, config: FineTuneConfig) -> None:
        super().__init__()
        adapter.insert(encoder)
        if config.freeze_steps and not any(p.requires_grad for p in encoder.parameters()):
            raise ValueError(
                f"finetune.freeze_steps: {config.freeze_steps}, but nothing of the encoder trains with this adapter; leave it out"
            )
        if not config.mask_prob:  # a parameter outside of the graph would stall distributed training
            encoder.mask_emb.requires_grad_(False)
        encoder.transformer.layer_drop = config.layer_drop
        self.encoder = encoder
        self.task = task
        self.adapter = adapter
        self.config = config
        self.steps = 0  # of the optimiser, so far
        grid, reads = FrameGrid.of(encoder), read_by(encoder)
        light = FineTuneViews(config, grid, encoder.dim, task.labels, reads, task.min_frames)
        self.needs: tuple[str, ...] = (*task.needs, *([light.reads.column] if light.reads else []))
        self.aligned: bool = task.aligned
        self.views = light.views
        self.batch_views = light.batch_views
        self.train()

    def after_step(self, step: int) -> None:
        """Remember how many updates there were; a resumed run says so before its first."""
        self.steps = step

    def train(self, mode: bool = True) -> FineTune:
        """Switch dropout on and off, but never on below the first trained part."""
        super().train(mode)
        for part in (*frozen_parts(self.encoder), *frozen_batch_norms(self.encoder)):
            part.eval()
        return self

    def encode(self, batch: Batch) -> EncoderOutput:
        """Run the encoder; masks apply in training only, and only then do frames depend on what shares the batch, where a norm counts padding."""
        waveform, lengths = batch["waveform"], batch["waveform_lengths"]
        if not self.training:
            run = one_by_one(self.encoder) if self._minds_batch_mates else self.encoder
            return run(waveform, lengths)
        masked = batch["masked"] if self.config.mask_prob else None
        channels = batch["channels_masked"] if self.config.channel_mask_prob else None
        output: EncoderOutput = self.encoder(waveform, lengths, masked=masked, channels_masked=channels)
        return output

    @cached_property
    def _minds_batch_mates(self) -> bool:
        """Found once, in eval mode: what is tried is the norm, not the weights. Encoders of units have none over their padded input."""
        if read_by(self.encoder) is not None:
            return False
        device = self.encoder.mask_emb.device

        @torch.no_grad()
        def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
            output: EncoderOutput = self.encoder(waveform.to(device), lengths.to(device))
            return output

        with torch.autocast(device.type, enabled=False):  # rounding to bf16 would look like padding
            first = FrameGrid.of(self.encoder).first
            return minds_batch_mates(extract, sample_rate=self.encoder.sample_rate, min_samples=first)

    def forward(self, batch: Batch) -> StepOutput:
        """Loss of the task, as it sums and counts it."""
        resting = self.training and self.steps < self.config.freeze_steps
        with torch.set_grad_enabled(torch.is_grad_enabled() and not resting):
            output = self.encode(batch)
        result: StepOutput = self.task.loss(output, batch)
        if resting:
            # Distributed training waits for a gradient of every parameter, and Adam counts its steps: both get zeros, as published.
            result.loss_sum = result.loss_sum + 0 * sum(
                p.view(-1)[0] for p in self.encoder.parameters() if p.requires_grad
            )
        return result

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[str]:
        """What the task reads in each utterance, without masks; call it in eval mode."""
        assert not self.training
        predictions: list[str] = self.task.predict(self.encode(batch))
        return predictions

    def state_to_save(self) -> dict[str, Tensor]:
        """Return the task's tensors and those of the encoder that the adapter answers for: a few per cent of all, or all."""
        own = {f"encoder.{name}": tensor for name, tensor in self.adapter.trainable_state(self.encoder).items()}
        return own | {f"task.{name}": tensor for name, tensor in self.task.state_dict().items()}

    def load_saved(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_to_save` returned; ValueError if it was saved by another adapter or task."""
        expected = self.state_to_save()
        differing = sorted(expected.keys() ^ state.keys())
        differing += [name for name in expected if name in state and expected[name].shape != state[name].shape]
        if differing:
            raise ValueError(
                f"saved weights: {len(differing)} tensors do not fit this adapter and task, such as {differing[0]!r}; "
                "use the configuration that they were saved with"
            )
        self.load_state_dict(dict(state), strict=False)


@dataclass(frozen=True)
class FineTuneViews:
    """What fine-tuning does in the loader's workers: whole utterances with their labels, and masks.

    num_channels: what channel masks are drawn of. labels: from an utterance to what the task wants of it, by name. reads: the units that the encoder is
    given instead of the waveform, which then is never decoded. min_frames: utterances with fewer are bad ones.
    """

    config: FineTuneConfig
    grid: FrameGrid
    num_channels: int
    labels: Callable[[Utterance], Mapping[str, Any]]
    reads: UnitsInput | None = None
    min_frames: int = 1

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - nothing is random yet
        """Whole waveform or units, number of frames, labels."""
        signal = utterance.signal(self.reads)
        frames = self.grid.num_frames(len(signal))
        if frames < 1:
            raise ValueError(f"{utterance.id}: {len(signal)} samples give no frame; set data.min_duration")
        if frames < self.min_frames:
            raise ValueError(
                f"{utterance.id}: {frames} frames, fewer than the {self.min_frames} that the task needs; set data.min_duration"
            )
        return {"waveform": signal, "num_frames": frames, **self.labels(utterance)}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Add masked: (batch, frame) bool, and channels_masked: (batch, channel) bool."""
        config, num_frames = self.config, np.asarray(batch["num_frames"])
        made: Batch = {}
        if config.mask_prob:
            made["masked"] = span_mask(
                num_frames,
                mask_prob=config.mask_prob,
                mask_length=config.mask_length,
                generator=rng,
                same_count=config.same_count,
            )
        if config.channel_mask_prob:
            made["channels_masked"] = channel_mask(
                len(num_frames),
                self.num_channels,
                mask_prob=config.channel_mask_prob,
                mask_length=config.channel_mask_length,
                generator=rng,
                same_count=config.same_count,
            )
        return batch | made
