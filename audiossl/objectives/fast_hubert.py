"""Fast-HuBERT: units from filterbanks at 25 Hz by a linear classifier, at a middle layer too (Yang et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from audiossl.losses.unit_cross_entropy import unit_cross_entropy
from audiossl.objectives._units import UnitConfig, UnitObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


class FastHuBERT(UnitObjective):
    """HuBERT with linear logits instead of cosines to codewords, at each of `layers`: one classifier per layer and label set.

    With labels at 50 Hz and frames at 25 Hz (the encoder `fbank` with strides (2, 2)), every second label is used, as published.
    """

    @dataclass(frozen=True)
    class Config(UnitConfig):
        """The published base model. It counts no penalty, and its mean is over frames and layers.

        layers: those that are predicted from, 1 being the first block, ascending; the last one is the encoder's and what `masked_accuracy` tells, and the
        others are logged as `masked_0_accuracy`, ... in their order. Published classifiers have 4 special classes that no frame has, here 0.
        """

        label_rate: float = 50.0
        layers: tuple[int, ...] = (4, 12)

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.layers or min(self.layers) < 1 or list(self.layers) != sorted(set(self.layers)):
                raise ValueError(
                    f"objective.layers: {list(self.layers)} must be numbers of blocks from 1 on, ascending"
                )

        @classmethod
        def tiny(cls) -> FastHuBERT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.5, mask_length=3, layers=(1, 2), unmasked_weight=0.5, penalty_weight=0.1, special_rows=1
            )

    def __init__(self, encoder: SSLEncoder, config: Config, num_codes: tuple[int, ...]) -> None:
        if config.layers[-1] > encoder.num_layers:
            raise ValueError(
                f"objective.layers: {list(config.layers)}, but the encoder has {encoder.num_layers}; name those"
            )
        if config.layers[-1] < encoder.num_layers:
            raise ValueError(
                f"objective.layers: {list(config.layers)} end below the encoder's {encoder.num_layers} blocks, of which those above would not train; "
                f"set encoder.num_layers to {config.layers[-1]}, or name {encoder.num_layers} too"
            )
        super().__init__(encoder, config, num_codes, config.layers)
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(encoder.dim, classes) for classes in self.classes) for _ in config.layers
        )

    def cross_entropy(self, head: int, label_set: int, frames: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """See `unit_cross_entropy`."""
        logits = self.heads.get_submodule(f"{head}.{label_set}")(frames)
        return unit_cross_entropy(logits, classes, temperature=self.config.temperature)
