"""Views of utterances as if they were recordings of their own: augmented, or a random part, always the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.augment import AugmentConfig, Augmenter
from audiossl.data.directory import Wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ViewConfig(AugmentConfig):
    """How a view differs from its utterance; our variant, for what is published was made for images.

    crop: share of the utterance that is kept, at a random place. The others as in training; by default simulated rooms and gain, which need
    no other data and keep what was said.
    """

    crop: float = 1.0
    reverb_probability: float = 1.0
    gain_probability: float = 1.0
    num_rooms: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop <= 1:
            raise ValueError(f"views.crop is {self.crop}; give a share of the utterance above 0, up to 1")
        if self.crop == 1 and not any(map(self.probability, self.order)):
            raise ValueError("views: no augmentation and crop 1 make all views alike; give one of them")


@dataclass(frozen=True)
class Views(Wrapped):
    """`draws` views of each utterance of a manifest, with the interface of one; view k of utterance u is number u * draws + k.

    A view is a function of (seed, u, k) alone, so that several encoders see the same ones.
    """

    config: ViewConfig
    draws: int
    seed: int

    @cached_property
    def ids(self) -> Sequence[str]:
        """Names that also say how the views were made: features of others, kept on disk, are not taken for theirs."""
        what = hashlib.sha256(repr((self.config, self.draws, self.seed)).encode()).hexdigest()[:8]
        return [f"{utterance}/{what}/{draw}" for utterance in self.source.ids for draw in range(self.draws)]

    @cached_property
    def durations(self) -> np.ndarray:
        """(view,) seconds, the longest that they may be."""
        return np.repeat(self.source.durations * self.config.crop * self.config.longest_stretch, self.draws)

    def audio(
        self,
        index: int,
        *,
        sample_rate: int,
        start: float = 0.0,
        seconds: float | None = None,
        allow_silent: bool = False,
    ) -> np.ndarray:
        """(sample,) float32; a piece of it is cut after augmentation."""
        utterance, draw = divmod(index, self.draws)
        rng = np.random.default_rng([self.seed, utterance, draw])
        whole = float(self.source.durations[utterance])
        kept = whole * self.config.crop
        place = {"start": rng.uniform(0.0, whole - kept), "seconds": kept} if self.config.crop < 1 else {}
        waveform = self.source.audio(
            utterance, sample_rate=sample_rate, allow_silent=allow_silent or bool(place), **place
        )
        if place and not allow_silent and not waveform.any():
            self.source.audio(utterance, sample_rate=sample_rate)  # an AudioError if all of it is silent
        view = self._augmenter(waveform, rng, sample_rate) if waveform.any() else waveform
        first = round(start * sample_rate)
        return view[first:] if seconds is None else view[first : first + round(seconds * sample_rate)]

    def column(self, name: str) -> Sequence[str]:
        """Views have no columns."""
        raise ValueError(f"{name}: views have no such column; ask the data directory")

    @cached_property
    def _augmenter(self) -> Augmenter:
        return Augmenter(self.config, self.source)
