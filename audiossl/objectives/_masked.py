"""What objectives that mask frames share: a crop of the utterance, span masks made in the loader's workers, and where masked frames are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn

from audiossl.data.frame_grid import FrameGrid
from audiossl.nn.span_masks import span_mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from audiossl.contracts import Batch, Utterance
    from audiossl.nn.ssl_encoder import SSLEncoder

_MARGIN = 1e-3  # seconds that are decoded in addition: at another rate, rounding may cost a sample at the end


@dataclass(frozen=True)
class MaskConfig:
    """The published base models' crops and masks.

    crop_duration: seconds, 250,000 samples at 16 kHz; longer utterances give a random piece. mask_prob, mask_length: see `nn.span_masks.span_mask`. same_count: every
    utterance of a batch loses masked frames until its share of them is the least one's; of utterances of one length, to which published code crops a batch, all
    have as many.
    """

    crop_duration: float = 15.625
    mask_prob: float = 0.65
    mask_length: int = 10
    same_count: bool = True

    def __post_init__(self) -> None:
        if self.crop_duration <= 0:
            raise ValueError(f"objective.crop_duration: {self.crop_duration} s is not positive")
        if not 0 <= self.mask_prob <= 1:
            raise ValueError(f"objective.mask_prob: {self.mask_prob} is not between 0 and 1")
        if self.mask_length < 1:
            raise ValueError(f"objective.mask_length: {self.mask_length} is not a span; give at least 1 frame")


@dataclass(frozen=True)
class MaskedViews:
    """The work in the loader's workers. normalise: whether whole utterances get zero mean and unit variance before the crop."""

    config: MaskConfig
    grid: FrameGrid
    normalise: bool

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """Crop an utterance at any sample. waveform: (sample,)."""
        _, waveform = self.crop(utterance, rng)
        return {"waveform": waveform}

    def crop(self, utterance: Utterance, rng: np.random.Generator) -> tuple[int, NDArray[np.float32]]:
        """Return the first sample of the piece, and the piece: (sample,). Only the piece is decoded, unless all of the utterance is normalised or augmented."""
        if self.normalise:
            return self.crop_whole(utterance, rng)
        return random_crop(utterance, self.config.crop_duration, self.grid, rng)

    def crop_whole(self, utterance: Utterance, rng: np.random.Generator) -> tuple[int, NDArray[np.float32]]:
        """Return the same of an utterance that is decoded, and augmented, as a whole."""
        waveform = utterance.waveform
        start, stop = _place(utterance.id, len(waveform), self.config.crop_duration, self.grid, rng)
        if self.normalise:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
        return start, waveform[start:stop]

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask spans, and find the masked frames, so that no device has to search for them.

        Adds masked: (batch, frame) bool, and masked_frames: (masked frame,) int64, their places in the flattened batch.
        """
        masked = self.mask(self.frames(batch), rng)
        return batch | {"masked": masked, "masked_frames": np.flatnonzero(masked)}

    def frames(self, batch: Batch) -> NDArray[np.int64]:
        """Valid frames of each utterance: (batch,)."""
        return np.array([self.grid.num_frames(int(samples)) for samples in batch["waveform_lengths"]], dtype=np.int64)

    def mask(self, frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Spans as the config has them: (batch, frame) bool, True = masked. frames: (batch,)."""
        return span_mask(
            frames,
            mask_prob=self.config.mask_prob,
            mask_length=self.config.mask_length,
            generator=rng,
            same_count=self.config.same_count,
        )


def random_crop(
    utterance: Utterance, seconds: float, grid: FrameGrid, rng: np.random.Generator
) -> tuple[int, NDArray[np.float32]]:
    """Return the first sample of a piece of at most `seconds`, and the piece: (sample,). Only the piece is decoded, unless all of the utterance is augmented.

    ValueError where it gives no frame.
    """
    samples = round(utterance.duration * grid.sample_rate)
    if utterance.clean is not utterance or samples <= round(seconds * grid.sample_rate):
        start, stop = _place(utterance.id, len(utterance.waveform), seconds, grid, rng)
        return start, utterance.waveform[start:stop]
    start, stop = _place(utterance.id, samples, seconds, grid, rng)
    begin, length = start / grid.sample_rate, (stop - start) / grid.sample_rate + _MARGIN
    piece = utterance.cut(begin, min(length, utterance.duration - begin))[: stop - start]
    # Pieces may be silent, recordings may not: reading all of it tells.
    return start, piece if piece.any() else utterance.waveform[start:stop]


def _place(name: str, samples: int, seconds: float, grid: FrameGrid, rng: np.random.Generator) -> tuple[int, int]:
    """First sample of a random piece, and the first after it, of an utterance of so many samples."""
    size = min(samples, round(seconds * grid.sample_rate))
    if grid.num_frames(size) < 1:
        raise ValueError(f"{name}: {size} samples give no frame; set data.min_duration")
    start = int(rng.integers(0, samples - size + 1))
    return start, start + size


class NamedViews(MaskedViews):
    """Views of an objective that names frames, and says how many unmasked ones it names rightly."""

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask spans; see `MaskedViews`. Adds unmasked_frames: (unmasked frame,) int64, places of the valid ones in the flattened batch."""
        made = super().batch_views(batch, rng)
        valid = np.arange(made["masked"].shape[1]) < self.frames(batch)[:, None]
        return made | {"unmasked_frames": np.flatnonzero(valid & ~made["masked"])}


class MaskedObjective(nn.Module):
    """The base: an encoder, and views that crop and mask. A subclass says its `Config` and `forward`.

    An encoder that normalises waveforms is relieved of it: the views do it, over the whole utterance, before they crop.
    """

    encoder_needs: ClassVar[tuple[str, ...]] = ("local_features", "contextualise")
    headline: ClassVar[tuple[str, ...]] = ()
    needs: tuple[str, ...] = ()

    def __init__(self, encoder: SSLEncoder, config: MaskConfig) -> None:
        super().__init__()
        self.encoder = encoder
        light = self.light_views(config, FrameGrid.of(encoder), normalise=encoder.normalise_waveform)
        encoder.normalise_waveform = False
        self.views, self.batch_views = light.views, light.batch_views

    def light_views(self, config: Any, grid: FrameGrid, *, normalise: bool) -> MaskedViews:
        """Return the small object, without the weights, that the loader's workers get; a subclass may have one of its own."""
        return MaskedViews(config, grid, normalise)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Any, data_dir: Path) -> MaskedObjective:  # noqa: ARG003 - no label is read
        """Build it; nothing is learnt from the data directory beforehand."""
        return cls(encoder, config)

    def after_step(self, step: int) -> None:
        """Nothing moves between steps."""
