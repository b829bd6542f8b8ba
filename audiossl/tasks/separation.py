"""Source separation on a frozen encoder: a mask for each of two voices that speak at once."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.tasks._mask_head import MaskConfig, MaskHead
from audiossl.tasks._mask_scores import IMPROVEMENT


class Separation(MaskHead):
    """The task SS of SUPERB-SG (Tsai et al., 2022): how much SI-SDR rose, of each voice alone in `utt2source1` and `utt2source2`."""

    @dataclass(frozen=True)
    class Config(MaskConfig):
        """One output for each of `columns`."""

        columns: tuple[str, ...] = ("utt2source1", "utt2source2")
        metrics: tuple[str, ...] = (IMPROVEMENT,)

        @classmethod
        def tiny(cls) -> Separation.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(hidden_dim=4, num_layers=1, num_workers=0)
