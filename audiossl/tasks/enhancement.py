"""Speech enhancement on a frozen encoder: a mask that leaves the voice and takes the noise."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.tasks._mask_head import MaskConfig, MaskHead
from audiossl.tasks._mask_scores import IMPROVEMENT


class Enhancement(MaskHead):
    """The task SE of SUPERB-SG (Tsai et al., 2022): PESQ, STOI in percent, and how much SI-SDR rose, of the recordings without noise in `utt2clean`."""

    @dataclass(frozen=True)
    class Config(MaskConfig):
        """PESQ and STOI need the extra `enh`."""

        columns: tuple[str, ...] = ("utt2clean",)
        metrics: tuple[str, ...] = ("pesq", "stoi", IMPROVEMENT)

        @classmethod
        def tiny(cls) -> Enhancement.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(metrics=(IMPROVEMENT,), hidden_dim=4, num_layers=1, num_workers=0)
