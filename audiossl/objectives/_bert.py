"""What the two BERTs share: span masks of random length, drawn for each utterance by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.objectives._masked import MaskConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SpanConfig(MaskConfig):
    """Masks of Baevski et al. (2019), in the numbers of ZeroSpeech 2021's RoBERTa on units; for frames they are unverified.

    mask_prob: share of frames that would be masked if spans did not overlap; at spans of 10, 0.5 makes every twentieth frame a start. mask_length, mask_std:
    mean and standard deviation of the frames of a span.
    """

    mask_prob: float = 0.5
    same_count: bool = False
    mask_std: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.same_count:
            raise ValueError("objective.same_count: masks are drawn for each utterance by itself here; leave it out")
        if self.mask_std < 0:
            raise ValueError(f"objective.mask_std: {self.mask_std} is negative")


def span_frames(num_frames: int, config: SpanConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask spans of a normally distributed length: (frame,) bool, True = masked; at least one frame is, if there is any.

    floor(mask_prob T / mask_length + U(0, 1)) distinct starts; lengths are rounded, below 0 they are 0; spans may overlap and end with the utterance.
    """
    if num_frames < 1:
        return np.zeros(0, dtype=np.bool_)
    count = int(config.mask_prob * num_frames / config.mask_length + rng.random())
    starts = rng.choice(num_frames, min(max(count, 1), num_frames), replace=False)
    lengths = np.rint(rng.normal(config.mask_length, config.mask_std, len(starts))).astype(np.int64)
    ends = np.minimum(starts + np.maximum(lengths, 0), num_frames)
    edges = np.bincount(starts, minlength=num_frames + 1) - np.bincount(ends, minlength=num_frames + 1)
    masked: NDArray[np.bool_] = edges.cumsum()[:num_frames] > 0
    if not masked.any():
        masked[starts[0]] = True
    return masked
