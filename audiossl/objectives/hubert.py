"""HuBERT: predict the unit of each masked frame (Hsu et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.objectives._codewords import CodewordConfig, CodewordObjective


class HuBERT(CodewordObjective):
    """Masked prediction of units: an encoder, one projection and one table of codewords per label set."""

    @dataclass(frozen=True)
    class Config(CodewordConfig):
        """The published base model, first iteration."""

        @classmethod
        def tiny(cls) -> HuBERT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, mask_length=3, final_dim=8, unmasked_weight=0.5, special_rows=1)
