"""What objectives share whose masks may be chosen by the encoder's attention, in the forward pass, instead of spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audiossl.nn.masking import valid_frames
from audiossl.nn.self_guided_mask import contiguity, self_guided_mask
from audiossl.objectives._masked import MaskConfig, MaskedObjective, NamedViews

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


@dataclass(frozen=True)
class SelfGuidedConfig(MaskConfig):
    """masking: random spans, or the frames that get most attention in the encoder's first block (Xie et al., 2024), one by one.

    Self-guided, mask_prob is their exact share and query_share that of the frames whose attention is asked, all of them in evaluation; 0.5 is
    our variant. Objectives whose views must know in the loader's workers which frames are masked, to find their labels or draw negatives, have spans alone.
    """

    mask_length: int = 1
    same_count: bool = False
    masking: Literal["span", "self_guided"] = "span"
    query_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.query_share <= 1:
            raise ValueError(f"objective.query_share: {self.query_share} is not in (0, 1]")
        if self.masking == "span" and self.query_share != SelfGuidedConfig.query_share:
            raise ValueError(
                f"objective.query_share: {self.query_share} is for masking = 'self_guided'; leave it out, or choose that"
            )
        if self.masking == "self_guided" and (self.mask_length != 1 or self.same_count):
            raise ValueError(
                f"objective: mask_length {self.mask_length} and same_count {self.same_count} are for spans; "
                "self-guided masks need mask_length = 1 and same_count = false"
            )


@dataclass(frozen=True)
class SelfGuidedViews(NamedViews):
    """Spans are drawn in the loader's workers; what the encoder chooses itself is left to `forward`."""

    config: SelfGuidedConfig

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mask spans, if that is how frames are chosen; see `MaskedViews`."""
        return super().batch_views(batch, rng) if self.config.masking == "span" else batch


class SelfGuidedObjective(MaskedObjective):
    """The base: `masks` in `forward` gives the masks of either kind. A subclass says its `Config` and `forward`."""

    def __init__(self, encoder: SSLEncoder, config: SelfGuidedConfig) -> None:
        super().__init__(encoder, config)
        self._masking = config

    def light_views(self, config: Any, grid: FrameGrid, *, normalise: bool) -> SelfGuidedViews:
        """Return views that mask spans or nothing."""
        return SelfGuidedViews(config, grid, normalise)

    def masks(self, batch: Batch, local: LocalFeatures) -> tuple[Tensor, Tensor]:
        """Which frames are masked, (batch, frame) bool, and their places in the flattened batch, (masked frame,) int64."""
        config = self._masking
        if config.masking == "span":
            masked: Tensor = batch["masked"]
            assert masked.shape == local.z.shape[:2], (masked.shape, local.z.shape)
            return masked, batch["masked_frames"]
        share = config.query_share if self.training else 1.0
        masked = self_guided_mask(self.encoder, local.z, local.lengths, mask_share=config.mask_prob, query_share=share)
        return masked, masked.flatten().nonzero().squeeze(1)

    def mask_metrics(self, masked: Tensor, local: LocalFeatures) -> dict[str, tuple[Tensor, Tensor]]:
        """mask_contiguity, of masks that the encoder chose: 1 where they lie as if at random, see `contiguity`. masked: as `masks` gives them."""
        if self._masking.masking == "span":
            return {}
        return {"mask_contiguity": contiguity(masked, local.lengths)}

    def unmasked(self, batch: Batch, local: LocalFeatures, masked: Tensor) -> Tensor:
        """Places of the unmasked frames in the flattened batch, (unmasked frame,) int64. masked: as `masks` gives them."""
        if self._masking.masking == "span":
            places: Tensor = batch["unmasked_frames"]
            return places
        valid = valid_frames(local.lengths, masked.shape[1])
        return (valid & ~masked).flatten().nonzero().squeeze(1)
